//! What every test of the suite shares.
