//! Where each tensor of a network lies in the flat arrays of a training run.

use segface_codegen::{ModelSpec, TensorDecl, manifest};
use std::ops::Range;

/// Tensors start at multiples of this many values: 64 bytes of f32.
pub const ALIGNMENT: usize = 16;

/// What a tensor is to training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Moved by the optimizer, if it is trained.
    Parameter,
    /// `running_mean` or `running_var` of a batch norm.
    Statistic,
    /// `num_batches_tracked` of a batch norm, an integer: exact up to 2²⁴, where it stays.
    Count,
    /// A table that never changes: the position matrix, Swin's coordinates and indices (integers up to 224).
    Fixed,
}

impl Role {
    /// The role of the tensor of that published name.
    pub fn of(name: &str) -> Role {
        match name.rsplit('.').next().unwrap_or(name) {
            "running_mean" | "running_var" => Role::Statistic,
            "num_batches_tracked" => Role::Count,
            "positional_encoding_gaussian_matrix" | "relative_coords_table" | "relative_position_index" => Role::Fixed,
            _ => Role::Parameter,
        }
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its published name, e.g. `backbone.0.1.0.attn.qkv.weight`.
    pub name: String,
    /// Its shape, as published (convolutions `[out, in, height, width]`); empty for a scalar.
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
    /// Where it lies, row-major: in parameters and gradients if it is a [`Role::Parameter`], else in buffers.
    pub range: Range<usize>,
    /// Whether the optimizer moves it (a parameter) or batches do (a statistic or count). Not trained are what was frozen, fixed tables,
    /// and the norm behind Swin's last tap, which feeds nothing and so never has a gradient.
    pub trained: bool,
}

/// All tensors of a network, in the order in which the forward pass meets them, then those that feed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    model: ModelSpec,
    parameters: Vec<Entry>,
    buffers: Vec<Entry>,
    lens: [usize; 2],
}

impl Layout {
    /// The layout of a network, everything trained.
    pub fn new(model: ModelSpec) -> Layout {
        Layout::of(model, manifest(&model))
    }

    /// The same of these tensors: a network of another kind, for which `model` only stands.
    pub fn of(model: ModelSpec, tensors: Vec<TensorDecl>) -> Layout {
        let mut layout = Layout { model, parameters: Vec::new(), buffers: Vec::new(), lens: [0; 2] };
        for decl in tensors {
            let role = Role::of(&decl.name);
            let (entries, len) = match role {
                Role::Parameter => (&mut layout.parameters, &mut layout.lens[0]),
                _ => (&mut layout.buffers, &mut layout.lens[1]),
            };
            let start = len.next_multiple_of(ALIGNMENT);
            let range = start..start + decl.shape.iter().product::<usize>();
            *len = range.end.next_multiple_of(ALIGNMENT);
            let trained = match role {
                Role::Parameter => decl.required,
                Role::Statistic | Role::Count => true,
                Role::Fixed => false,
            };
            entries.push(Entry { name: decl.name, shape: decl.shape, role, range, trained });
        }
        layout
    }

    /// The same with everything frozen whose name `frozen` says: such parameters keep their values, and such batch norms normalise by
    /// their running statistics, which keep theirs.
    #[must_use]
    pub fn freeze(mut self, frozen: impl Fn(&str) -> bool) -> Layout {
        for entry in self.parameters.iter_mut().chain(&mut self.buffers) {
            entry.trained &= !frozen(&entry.name);
        }
        self
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        self.model
    }

    /// Tensors of the parameters.
    pub fn parameters(&self) -> &[Entry] {
        &self.parameters
    }

    /// Tensors of the buffers.
    pub fn buffers(&self) -> &[Entry] {
        &self.buffers
    }

    /// Length of parameters and gradients, a multiple of [`ALIGNMENT`].
    pub fn parameters_len(&self) -> usize {
        self.lens[0]
    }

    /// Length of the buffers, a multiple of [`ALIGNMENT`].
    pub fn buffers_len(&self) -> usize {
        self.lens[1]
    }

    /// The tensor of that name, parameter or buffer.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.parameters.iter().chain(&self.buffers).find(|entry| entry.name == name)
    }

    /// Parts of the parameters that the optimizer moves, in order, as long as they can be: neighbours are one range, with what lies
    /// between them.
    pub fn trained_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for entry in self.parameters.iter().filter(|entry| entry.trained) {
            match ranges.last_mut() {
                Some(last) if last.end.next_multiple_of(ALIGNMENT) == entry.range.start => last.end = entry.range.end,
                _ => ranges.push(entry.range.clone()),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segface_codegen::{Backbone, Variant};

    #[test]
    fn tensors_are_aligned_and_do_not_overlap_and_none_is_forgotten() {
        for model in ModelSpec::all() {
            let layout = Layout::new(model);
            assert_eq!(layout.parameters().len() + layout.buffers().len(), manifest(&model).len());
            for (entries, len) in
                [(layout.parameters(), layout.parameters_len()), (layout.buffers(), layout.buffers_len())]
            {
                let mut end = 0;
                for entry in entries {
                    assert!(entry.range.start >= end && entry.range.start < end + ALIGNMENT, "{entry:?}");
                    assert_eq!(entry.range.start % ALIGNMENT, 0);
                    assert_eq!(entry.range.len(), entry.shape.iter().product::<usize>());
                    end = entry.range.end;
                }
                assert_eq!(end.next_multiple_of(ALIGNMENT), len);
            }
        }
    }

    #[test]
    fn only_what_feeds_nothing_or_is_frozen_is_left_alone() {
        let model = ModelSpec { backbone: Backbone::SwinBase, variant: Variant::Celeb };
        let layout = Layout::new(model);
        let left: Vec<&str> =
            layout.parameters().iter().filter(|entry| !entry.trained).map(|entry| &entry.name[..]).collect();
        assert_eq!(left, ["backbone.1.weight", "backbone.1.bias"]);
        let unused = &layout.find("backbone.1.weight").unwrap().range;
        assert_eq!(layout.trained_ranges().len(), 1);
        assert!(layout.trained_ranges()[0].end <= unused.start);

        let model = ModelSpec { backbone: Backbone::MobileNet, ..model };
        let layout = Layout::new(model).freeze(|name| name.starts_with("backbone."));
        assert!(layout.parameters().iter().all(|entry| entry.trained != entry.name.starts_with("backbone.")));
        assert!(layout.buffers().iter().all(|entry| !entry.trained));
        let trained: usize = layout.trained_ranges().iter().map(|range| range.len()).sum();
        let decoder: usize =
            layout.parameters().iter().filter(|entry| entry.trained).map(|entry| entry.range.len()).sum();
        assert!(trained >= decoder && trained < decoder + ALIGNMENT * layout.parameters().len());
    }

    #[test]
    fn the_forward_pass_meets_the_stem_first_and_the_decoder_last() {
        for backbone in Backbone::ALL {
            let layout = Layout::new(ModelSpec { backbone, variant: Variant::Helen });
            let used: Vec<&Entry> = layout.parameters().iter().filter(|entry| entry.trained).collect();
            let first_decoder = used.iter().position(|entry| !entry.name.starts_with("backbone.")).unwrap();
            assert!(used[..first_decoder].len() > 50, "{backbone}");
            assert!(used[first_decoder..].iter().all(|entry| !entry.name.starts_with("backbone.")), "{backbone}");
        }
    }
}
