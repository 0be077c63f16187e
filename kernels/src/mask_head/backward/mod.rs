//! Gradients of the mask head on the CPU: of the whole head, fused, and of its product alone.

mod head;
mod product;

pub use head::{MaskHeadBackwardOperands, MaskHeadParameters, mask_head_backward};
pub use product::{MaskProductBackwardOperands, mask_product_backward};
