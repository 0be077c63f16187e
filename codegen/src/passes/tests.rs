use super::Pass;
use crate::ir::{Graph, Output, Source};
use crate::plan::{CompileOptions, Precision, compile_observed};
use crate::{Backbone, ModelSpec, Variant, WeightSource, manifest};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Tensors of the right shapes whose numbers do not matter.
struct Blank(BTreeMap<String, Vec<usize>>);

impl Blank {
    fn of(model: &ModelSpec) -> Self {
        Blank(manifest(model).into_iter().map(|t| (t.name, t.shape)).collect())
    }
}

impl WeightSource for Blank {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        let shape = self.0.get(name)?;
        Some((shape, Cow::Owned(vec![0.5; shape.iter().product()])))
    }
}

#[test]
fn counts() {
    for backbone in Backbone::ALL {
        let model = ModelSpec { backbone, variant: Variant::Celeb };
        let options = CompileOptions {
            batch: 1,
            height: 224,
            width: 224,
            precision: Precision::Bf16,
            outputs: vec![Output::Labels],
            disabled: vec![],
        };
        let mut all = vec![];
        let plan = compile_observed(&model, &Blank::of(&model), &options, &mut |s| {
            all.push(crate::explain::Summary::of(s.name, s.rewrites, s.graph));
        })
        .unwrap();
        println!("{backbone}\n{}", crate::explain::table(&all));
        println!("{}", crate::explain::listing(&plan.graph));
    }
    let _ = Pass::ALL;
    let _: Option<(Graph, Source)> = None;
}
