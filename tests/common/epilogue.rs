//! Random epilogues, for the tests of every kernel that ends in one.

use crate::operand::{Operand, Values};
use proptest::prelude::*;
use segface_codegen::ir::Slot;
use segface_kernels::{
    Act, Element, Epilogue,
    epilogue::{EpilogueOperands, Residual},
};
use segface_reference::gemm as reference;
use tch::{Kind, Tensor};

/// An epilogue and where its residual lies.
#[derive(Debug, Clone, Copy)]
pub struct EpilogueChoice {
    /// The steps.
    pub epilogue: Epilogue,
    /// Whether the residual is what the output buffer holds.
    pub in_place: bool,
}

/// Any activation. Shrinks to the identity.
pub fn any_act() -> impl Strategy<Value = Act> {
    prop::sample::select(vec![
        Act::Identity,
        Act::Relu,
        Act::Gelu,
        Act::Silu,
        Act::HardSwish,
        Act::HardSigmoid,
        Act::Sigmoid,
    ])
}

/// Any epilogue. Shrinks to none.
pub fn any_epilogue() -> impl Strategy<Value = EpilogueChoice> {
    let norm = prop_oneof![2 => Just(None), 1 => prop::sample::select(vec![Some(1e-5), Some(1e-6)])];
    (any::<bool>(), any_act(), any::<bool>(), norm, any::<bool>(), any::<bool>(), any_act()).prop_map(
        |(bias, act, scale, norm, residual, in_place, act_after)| EpilogueChoice {
            epilogue: Epilogue { bias, act, scale, norm, residual, act_after },
            in_place,
        },
    )
}

/// The numbers of an epilogue over [rows, n].
#[derive(Debug)]
pub struct EpilogueNumbers<T> {
    choice: EpilogueChoice,
    bias: Operand,
    scale: Operand,
    norm: [Operand; 2],
    residual: Operand,
    elements: Vec<T>,
}

impl<T: Element> EpilogueNumbers<T> {
    /// Drawn from `values`.
    pub fn new(choice: EpilogueChoice, values: &Values, rows: usize, n: usize) -> Self {
        let residual = values.input::<T>("residual", &[rows, n]);
        Self {
            choice,
            bias: values.weight::<T>("epilogue bias", &[n], 0.5),
            scale: values.factor::<T>("scale", &[n]),
            norm: [values.factor::<T>("norm weight", &[n]), values.weight::<T>("norm bias", &[n], 0.5)],
            elements: residual.elements(),
            residual,
        }
    }

    /// What the kernel gets.
    pub fn operands(&self) -> EpilogueOperands<'_, T> {
        let Epilogue { bias, scale, norm, residual, .. } = self.choice.epilogue;
        EpilogueOperands {
            bias: bias.then_some(self.bias.f32()),
            scale: scale.then_some(self.scale.f32()),
            norm: norm.map(|_| (self.norm[0].f32(), self.norm[1].f32())),
            residual: match (residual, self.choice.in_place) {
                (false, _) => Residual::None,
                (true, true) => Residual::InPlace,
                (true, false) => Residual::From(&self.elements),
            },
        }
    }

    /// The operands as slots of a node; that of the bias differs between operators.
    pub fn slots(&self, bias: Slot) -> Vec<(Slot, &Operand)> {
        let epilogue = self.choice.epilogue;
        let mut slots = Vec::new();
        if epilogue.bias {
            slots.push((bias, &self.bias));
        }
        if epilogue.scale {
            slots.push((Slot::Scale, &self.scale));
        }
        if epilogue.norm.is_some() {
            slots.extend([(Slot::PostNormWeight, &self.norm[0]), (Slot::PostNormBias, &self.norm[1])]);
        }
        if epilogue.residual {
            slots.push((Slot::Residual, &self.residual));
        }
        slots
    }

    /// What the output buffer holds before the call: the residual, or values that must not matter.
    pub fn output(&self) -> Vec<T> {
        match self.choice.in_place && self.choice.epilogue.residual {
            true => self.elements.clone(),
            false => vec![T::from_f32(f32::NAN); self.elements.len()],
        }
    }

    /// The epilogue of the bare product `y` [rows, n] by libtorch.
    pub fn reference(&self, kind: Kind, y: &Tensor) -> Tensor {
        let Epilogue { bias, act, scale, norm, residual, act_after } = self.choice.epilogue;
        let [bias_values, scale_values, residual_values] =
            [&self.bias, &self.scale, &self.residual].map(|operand| operand.tensor(kind));
        let [weight, shift] = [&self.norm[0], &self.norm[1]].map(|operand| operand.tensor(kind));
        reference::Epilogue {
            bias: bias.then_some(&bias_values),
            act,
            scale: scale.then_some(&scale_values),
            norm: norm.map(|eps| (&weight, &shift, f64::from(eps))),
            residual: residual.then_some(&residual_values),
            act_after,
        }
        .apply(y)
    }
}
