//! segface-kernels
