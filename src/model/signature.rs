//! Signatures of the API, of UserSig and of callbacks.
