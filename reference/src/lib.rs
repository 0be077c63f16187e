//! segface-reference
