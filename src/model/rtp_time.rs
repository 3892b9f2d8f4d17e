//! From a sender's RTP time to the box's media time.
