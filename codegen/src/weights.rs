//! How the constants of a graph are made from tensors of the checkpoint.

/// A value made from published tensors: which, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Published tensors it is made from.
    pub tensors: Vec<crate::TensorDecl>,
}
