//! HLS media playlists: text from segments, and back.
