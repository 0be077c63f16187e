//! Every kernel that the CUDA target generates, under names that people can read and that outlive an edit of a kernel.

use segface_codegen::cuda::{Kernel, Rung, image_kernels, kernels};
use segface_codegen::ir::{Graph, Output};
use segface_codegen::passes::Pass;
use segface_codegen::plan::{CompileOptions, Precision, optimise};
use segface_codegen::{Backbone, ModelSpec, Variant, WeightSource, manifest};
use segface_kernels::DType;
use segface_kernels::cuda::{COMPILE_OPTIONS, HEADERS};
use segface_kernels::image::cuda::Kernel as ImageKernel;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Kernels by name.
pub type Instances = BTreeMap<String, Kernel>;

/// Zeros of the right shapes: kernels do not depend on the numbers.
struct Zeros(BTreeMap<String, Vec<usize>>);

impl Zeros {
    fn new(spec: &ModelSpec) -> Self {
        Self(manifest(spec).into_iter().map(|tensor| (tensor.name, tensor.shape)).collect())
    }
}

impl WeightSource for Zeros {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        let shape = self.0.get(name)?;
        Some((shape, Cow::Owned(vec![0.0; shape.iter().product()])))
    }
}

/// What a network is compiled for.
#[derive(Debug, Clone)]
pub struct Case {
    /// Which network.
    pub spec: ModelSpec,
    /// Images, height, width.
    pub size: [usize; 3],
    /// What is asked of it.
    pub outputs: Vec<Output>,
    /// Passes left out.
    pub disabled: Vec<Pass>,
    /// The rung of kernels that have one.
    pub rung: Option<Rung>,
}

impl Case {
    /// As a user gets it, with logits and labels.
    pub fn usual(spec: ModelSpec, size: [usize; 3]) -> Self {
        Self { spec, size, outputs: vec![Output::Logits, Output::Labels], disabled: Vec::new(), rung: None }
    }

    /// Straight to labels: no logits are written.
    pub fn labels(spec: ModelSpec, size: [usize; 3]) -> Self {
        Self { outputs: vec![Output::Labels], ..Self::usual(spec, size) }
    }

    /// Its graph in `precision`. Constants are zeros.
    ///
    /// # Panics
    /// If it cannot be compiled.
    pub fn graph(&self, precision: Precision) -> Graph {
        let [batch, height, width] = self.size;
        let options = CompileOptions {
            batch,
            height,
            width,
            precision,
            outputs: self.outputs.clone(),
            disabled: self.disabled.clone(),
        };
        let graph = optimise(&self.spec, &Zeros::new(&self.spec), &options, &mut |_| {});
        graph.unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }

    /// Its kernels, in every one of `precisions`.
    ///
    /// # Panics
    /// If it cannot be compiled.
    pub fn kernels(&self, precisions: &[Precision]) -> Vec<Kernel> {
        precisions.iter().flat_map(|&precision| kernels(&self.graph(precision), precision, self.rung)).collect()
    }
}

/// A name for a kernel: its room and every template that it instantiates, e.g. `gemm: Shape<Bfloat,128,64,4,2,64,4>; …`.
pub fn name(kernel: &Kernel) -> String {
    let room = kernel
        .name
        .rsplit_once('_')
        .filter(|(_, hash)| hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
        .map_or(&*kernel.name, |(room, _)| room);
    let mut aliases = Vec::new();
    let mut parts: Vec<String> = Vec::new();
    let mut signature = "";
    for line in kernel.source.lines() {
        if line.starts_with('#') || line.starts_with("static_assert") || line.starts_with("using namespace") {
            continue;
        }
        let definition = line.strip_prefix("using ").or_else(|| line.strip_prefix("constexpr int "));
        if let Some((alias, of)) = definition.and_then(|line| line.split_once(" = ")) {
            // `Single::Element` is as good a name as `float`; `S::E` says nothing that `S` does not.
            let of = of.trim_end_matches(';').trim_end_matches("::Element");
            if !of.contains(['<', ':']) {
                aliases.push((alias, of));
                continue;
            }
        }
        let text = match line.split_once("__launch_bounds__") {
            Some((_, rest)) => {
                signature = rest;
                continue;
            }
            None => line,
        };
        let ids = template_ids(text);
        let plain = ids.iter().fold(text.to_owned(), |text, id| text.replace(id, ""));
        let words = plain.split(|c: char| c.is_whitespace() || "(){},;".contains(c));
        let literals: Vec<&str> = words.filter(|word| is_literal(word)).collect();
        parts.extend(ids);
        if !literals.is_empty() {
            parts.push(literals.join(","));
        }
    }
    if parts.is_empty() {
        let parameters = signature.split_once('(').and_then(|(_, rest)| rest.split_once('('));
        let list = parameters.map_or(signature, |(_, list)| list.trim_end_matches(" {"));
        let call = kernel.source.lines().rfind(|line| line.ends_with(");")).and_then(|line| line.split('(').next());
        let types: String =
            aliases.iter().filter(|(alias, _)| *alias == "E").map(|(_, of)| format!("; {of}")).collect();
        parts.push(format!("{}({list}{types}", call.unwrap_or_default().trim()));
    }
    let mut seen = BTreeSet::new();
    parts.retain(|part| seen.insert(part.clone()));
    let mut text = replace_words(&parts.join("; "), &aliases).replace("Act::", "").replace(", ", ",");
    for qualifier in [room, room.trim_end_matches("_rung"), "token_attention", "resample", "elementwise"] {
        text = text.replace(&format!("{qualifier}::"), "");
    }
    format!("{room}: {text}")
}

/// The text with each word that is an alias replaced by what it stands for.
fn replace_words(text: &str, aliases: &[(&str, &str)]) -> String {
    let mut result = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let of = aliases.iter().find(|(alias, _)| *alias == word).map(|(_, of)| *of);
        result.push_str(of.unwrap_or(&word));
        result.push(c);
        word.clear();
    }
    result.pop();
    result
}

/// A number, such as `1e-5f`, a truth or a null: what a kernel is called with beside its parameters.
fn is_literal(word: &str) -> bool {
    ["true", "false", "nullptr"].contains(&word) || word.starts_with(|c: char| c.is_ascii_digit())
}

/// Every `name<…>` in a line, the outermost only.
fn template_ids(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(open) = rest.find('<') {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let begin = rest[..open].rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
        let mut depth = 0;
        let close = rest[open..].find(|c| {
            depth += i32::from(c == '<') - i32::from(c == '>');
            depth == 0
        });
        let Some(close) = close.map(|close| open + close + 1) else { break };
        if begin < open {
            found.push(rest[begin..close].to_owned());
        }
        rest = &rest[close..];
    }
    found
}

/// What a kernel is made of: its source and every header it includes, without comments and layout. Equal texts are the same
/// instructions.
pub fn text(kernel: &Kernel) -> String {
    let mut whole = format!("{COMPILE_OPTIONS:?}\n");
    let mut headers = BTreeSet::new();
    append(&kernel.source, &mut headers, &mut whole);
    whole
}

fn append(source: &str, headers: &mut BTreeSet<String>, whole: &mut String) {
    for line in source.lines() {
        if let Some(path) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            if headers.insert(path.to_owned()) {
                let (_, text) = HEADERS.iter().find(|(name, _)| *name == path).unwrap_or_else(|| panic!("no {path}"));
                append(text, headers, whole);
            }
            continue;
        }
        let code = line.split("//").next().unwrap_or_default().split_whitespace();
        for word in code {
            whole.push_str(word);
            whole.push(' ');
        }
    }
}

/// Takes kernels up under their names.
///
/// # Panics
/// If two different ones would have the same.
pub fn collect(into: &mut Instances, kernels: impl IntoIterator<Item = Kernel>) {
    for kernel in kernels {
        let name = name(&kernel);
        let text = kernel.source.clone();
        let before = into.entry(name.clone()).or_insert(kernel);
        assert_eq!(before.source, text, "two kernels are called {name}");
    }
}

/// Networks as users run them: every backbone and label set at 512×512, one image and eight, the Swin kinds at 224×224 too.
pub fn networks(backbones: &[Backbone]) -> Vec<Case> {
    let mut cases = Vec::new();
    for &backbone in backbones {
        for variant in Variant::ALL {
            let spec = ModelSpec { backbone, variant };
            let mut sizes = vec![[1, 512, 512], [8, 512, 512]];
            if backbone.to_string().starts_with("swin") {
                sizes.push([1, 224, 224]);
            }
            cases.extend(sizes.into_iter().map(|size| Case::usual(spec, size)));
        }
    }
    cases
}

/// A network on the lower rungs of the ladders, un-fused as far as those need it, and fused as far as they can be.
pub fn rungs(backbone: Backbone) -> Vec<Case> {
    let case = Case::usual(ModelSpec { backbone, variant: Variant::Celeb }, [1, 512, 512]);
    let disabled = vec![Pass::FuseWindowAttention, Pass::FuseLayerNorm];
    let on = |rung| Case { disabled: disabled.clone(), rung: Some(rung), ..case.clone() };
    vec![on(Rung::Naive), on(Rung::Tiled), Case { rung: Some(Rung::Tiled), ..case.clone() }]
}

/// The kernels around networks: for every element type of inputs and number of classes that they are about.
pub fn images() -> Vec<Kernel> {
    let mut found = Vec::new();
    for (input, other_input) in [(DType::Bf16, false), (DType::F16, true), (DType::F32, true)] {
        for (classes, other_classes) in [(19, false), (11, true)] {
            let mut kernels = image_kernels(&ImageKernel::ALL, input, classes);
            kernels.retain(|kernel| {
                let code = kernel.source.split_once("__global__").map_or("", |(_, code)| code);
                let uses = |name| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
                (uses("E") || !other_input) && (uses("CLASSES") || !other_classes)
            });
            found.extend(kernels);
        }
    }
    found
}
