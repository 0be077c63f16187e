//! Weights by published name, as tensors of one kind.

use crate::{
    Error,
    elementwise::{BatchNorm, batch_norm, batch_norm_in_training},
    layer_norm,
    mlp::Linear,
    squeeze_excite::SqueezeExcite,
    token_attention::Norm,
};
use segface_codegen::WeightSource;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fmt,
};
use tch::{Kind, Tensor};

/// What training mode adds.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
    /// Factor of stochastic depth: of a place of the network, a probability, an image.
    pub factor: &'a dyn Fn(u32, f32, usize) -> f32,
    /// Whether the batch norm whose tensors' names begin so keeps its running statistics, and normalises by them.
    pub frozen: &'a dyn Fn(&str) -> bool,
}

/// Whether a tensor of that name is a parameter.
fn trained(name: &str) -> bool {
    !matches!(
        name.rsplit('.').next(),
        Some(
            "running_mean"
                | "running_var"
                | "positional_encoding_gaussian_matrix"
                | "relative_position_index"
                | "relative_coords_table"
        )
    )
}

/// Converts what a source holds to one kind, once.
pub(crate) struct Store<'a> {
    source: Option<&'a dyn WeightSource>,
    kind: Kind,
    pub(crate) training: Option<Training<'a>>,
    /// Residual branches met so far in training.
    pub(crate) places: Cell<u32>,
    converted: RefCell<HashMap<String, Tensor>>,
}

impl fmt::Debug for Store<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<'a> Store<'a> {
    pub(crate) fn new(source: &'a dyn WeightSource, kind: Kind) -> Self {
        Store { source: Some(source), kind, training: None, places: Cell::new(0), converted: RefCell::default() }
    }

    /// These tensors themselves, and no others.
    pub(crate) fn of_tensors(tensors: BTreeMap<String, Tensor>, kind: Kind, training: Training<'a>) -> Self {
        let converted = RefCell::new(tensors.into_iter().collect());
        Store { source: None, kind, training: Some(training), places: Cell::new(0), converted }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The scope that holds every tensor.
    pub(crate) fn root(&self) -> Scope<'_> {
        Scope { store: self, path: String::new() }
    }

    fn tensor(&self, name: String) -> Result<Tensor, Error> {
        if let Some(tensor) = self.converted.borrow().get(&name) {
            return Ok(tensor.shallow_clone());
        }
        let Some((shape, values)) = self.source.and_then(|source| source.tensor(&name)) else {
            return Err(Error::Missing(name));
        };
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let tensor = Tensor::from_slice(&values).view(shape.as_slice()).to_kind(self.kind);
        let tensor = match &self.training {
            // A leaf of its own, whose memory the optimizer or a batch norm may change.
            Some(_) if trained(&name) => tensor.copy().set_requires_grad(true),
            Some(_) => tensor.copy(),
            None => tensor,
        };
        self.converted.borrow_mut().insert(name, tensor.shallow_clone());
        Ok(tensor)
    }

    /// Every tensor used so far, by name.
    pub(crate) fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.converted.borrow().iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }
}

/// The tensors whose names begin with a path, as a module of the published network sees them.
pub(crate) struct Scope<'s> {
    store: &'s Store<'s>,
    path: String,
}

impl Scope<'_> {
    /// The submodule `name`.
    pub(crate) fn at(&self, name: impl fmt::Display) -> Scope<'_> {
        Scope { store: self.store, path: format!("{}{name}.", self.path) }
    }

    /// The kind everything is computed in.
    pub(crate) fn kind(&self) -> Kind {
        self.store.kind
    }

    /// The tensor `name` of this module.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        self.store.tensor(format!("{}{name}", self.path))
    }

    /// A residual branch [N, ..] in training: torchvision's `StochasticDepth`, mode "row". Else the branch itself.
    pub(crate) fn stochastic_depth(&self, branch: &Tensor, probability: f64) -> Tensor {
        let Some(training) = &self.store.training else { return branch.shallow_clone() };
        let place = self.store.places.get();
        self.store.places.set(place + 1);
        if probability == 0.0 {
            return branch.shallow_clone();
        }
        let size = branch.size();
        let factors: Vec<f32> =
            (0..size[0] as usize).map(|image| (training.factor)(place, probability as f32, image)).collect();
        let mut shape = vec![1; size.len()];
        shape[0] = size[0];
        branch * Tensor::from_slice(&factors).to_kind(branch.kind()).view(shape.as_slice())
    }

    /// This module as a linear layer with bias.
    pub(crate) fn linear(&self) -> Result<Linear, Error> {
        Ok(Linear { weight: self.tensor("weight")?, bias: self.tensor("bias")? })
    }

    /// This module as a layer norm of the decoder.
    pub(crate) fn norm(&self) -> Result<Norm, Error> {
        Ok(Norm { weight: self.tensor("weight")?, bias: self.tensor("bias")? })
    }

    /// This module, a layer norm, on the last axis of `x`.
    pub(crate) fn layer_norm(&self, x: &Tensor, eps: f64) -> Result<Tensor, Error> {
        Ok(layer_norm::layer_norm(x, &self.tensor("weight")?, &self.tensor("bias")?, eps))
    }

    /// This module, a layer norm, on the channels of `x` [N, C, H, W].
    pub(crate) fn layer_norm_2d(&self, x: &Tensor, eps: f64) -> Result<Tensor, Error> {
        Ok(layer_norm::layer_norm_2d(x, &self.tensor("weight")?, &self.tensor("bias")?, eps))
    }

    /// This module, a batch norm, on `x` [N, C, H, W].
    pub(crate) fn batch_norm(&self, x: &Tensor, eps: f64) -> Result<Tensor, Error> {
        let p = BatchNorm {
            weight: self.tensor("weight")?,
            bias: self.tensor("bias")?,
            running_mean: self.tensor("running_mean")?,
            running_var: self.tensor("running_var")?,
        };
        Ok(match &self.store.training {
            Some(training) if !(training.frozen)(&self.path) => batch_norm_in_training(x, &p, training.momentum, eps),
            _ => batch_norm(x, &p, eps),
        })
    }

    /// This module as the gate of a squeeze-excite.
    pub(crate) fn squeeze_excite(&self) -> Result<SqueezeExcite, Error> {
        Ok(SqueezeExcite {
            fc1_weight: self.tensor("fc1.weight")?,
            fc1_bias: self.tensor("fc1.bias")?,
            fc2_weight: self.tensor("fc2.weight")?,
            fc2_bias: self.tensor("fc2.bias")?,
        })
    }
}
