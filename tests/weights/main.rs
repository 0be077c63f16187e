//! Weights from the outside: files as users have them, good and bad.
