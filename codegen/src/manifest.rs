//! Which tensors a checkpoint of a model holds.

use crate::ModelSpec;

/// One tensor of the published state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDecl {
    /// Its key, e.g. `backbone.0.1.0.attn.qkv.weight`.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Whether the network computes with it. Index tables, counters and the norm behind the last tap are in every
    /// published checkpoint but feed nothing, so a file may lack them.
    pub required: bool,
}

/// Every tensor of the published state dict of `spec`, in no particular order. Names and shapes are those of the
/// files in `fixtures/keys`.
pub fn manifest(spec: &ModelSpec) -> Vec<TensorDecl> {
    crate::models::manifest(spec)
}

/// Where a compiler gets weights from: by published name, as f32.
pub trait WeightSource {
    /// The tensor of that name: its shape and its values in row-major order, or `None` if there is none.
    fn tensor(&self, name: &str) -> Option<(&[usize], std::borrow::Cow<'_, [f32]>)>;

    /// Says that the compiler has taken what it needs from that tensor: a source that can fetch it again may let go of its
    /// memory, so that weights are not in memory twice.
    fn release(&self, _name: &str) {}
}
