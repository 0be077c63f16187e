//! Recognising networks, checking their tensors, converting them.

use crate::training::training_checkpoint;
use segface::{
    Backbone, ModelSpec, Variant,
    weights::{
        Checkpoint, Container, DType, Hints, PUBLISHED, Problems, SaveAs, Tensor, Weights, WeightsError, resolve,
        seeded,
    },
};
use segface_codegen::{WeightSource, manifest};
use std::{collections::BTreeMap, fs, path::Path};

const MOBILENET: ModelSpec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };

/// The checkpoint a file with these tensors would be, without anything but the tensors to go by.
fn checkpoint(tensors: BTreeMap<String, Tensor>) -> Checkpoint {
    let mut checkpoint = Checkpoint::from_memory("test", b"\x02\0\0\0\0\0\0\0{}".to_vec()).unwrap();
    checkpoint.tensors = tensors;
    checkpoint
}

/// A float32 tensor of zeros, in memory the system only provides once it is touched.
fn zeros(shape: &[usize]) -> Tensor {
    Tensor::from_bytes(DType::F32, shape.to_vec(), vec![0; 4 * shape.iter().product::<usize>()]).unwrap()
}

/// Tensors of the right names and shapes, all zero.
fn hollow(spec: &ModelSpec) -> BTreeMap<String, Tensor> {
    manifest(spec).into_iter().map(|decl| (decl.name, zeros(&decl.shape))).collect()
}

fn problems(error: WeightsError) -> Problems {
    match error {
        WeightsError::Problems { problems, .. } => *problems,
        other => panic!("expected problems with tensors, got: {other}"),
    }
}

#[test]
fn every_network_of_the_family_is_recognised_from_its_tensors() {
    for spec in ModelSpec::all() {
        let found = checkpoint(hollow(&spec)).recognise(Hints { variant: Some(spec.variant), resolution: None });
        assert_eq!(found.unwrap_or_else(|e| panic!("{spec}: {e}")), (spec, None));
    }
}

#[test]
fn the_published_convnext_tiny_is_small_and_a_true_one_is_told_by_its_depth() {
    // fixtures/keys/convnext_tiny_celeb.tsv is the state dict the published code makes under that name.
    let keys = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys/convnext_tiny_celeb.tsv"));
    let tensors: BTreeMap<_, _> = keys
        .unwrap()
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let shape: Vec<usize> = match fields[1] {
                "scalar" => vec![],
                extents => extents.split('x').map(|extent| extent.parse().unwrap()).collect(),
            };
            (fields[0].to_owned(), zeros(&shape))
        })
        .collect();
    let (spec, _) = checkpoint(tensors.clone()).recognise(Hints::default()).unwrap();
    assert_eq!(spec.backbone, Backbone::ConvNextSmall);

    let mut shallow = tensors;
    shallow.retain(|name, _| !(9..27).any(|block| name.starts_with(&format!("backbone.0.5.{block}."))));
    let (spec, _) = checkpoint(shallow).recognise(Hints::default()).unwrap();
    assert_eq!(spec.backbone, Backbone::ConvNextTiny);
}

#[test]
fn a_damaged_network_is_still_recognised_so_that_its_faults_can_be_named() {
    for spec in ModelSpec::all().filter(|spec| spec.variant != Variant::Helen) {
        let mut tensors = hollow(&spec);
        let names: Vec<_> = tensors.keys().cloned().collect();
        // Every fourth tensor lost.
        for name in names.iter().step_by(4) {
            tensors.remove(name);
        }
        let (found, _) =
            checkpoint(tensors).recognise(Hints { variant: Some(spec.variant), resolution: None }).unwrap();
        assert_eq!(found, spec);
    }
}

#[test]
fn tensors_of_other_networks_are_not_recognised() {
    let other = |names: &[&str]| {
        let tensors =
            names.iter().map(|name| ((*name).to_owned(), Tensor::from_f32(vec![1], &[0.0]).unwrap())).collect();
        checkpoint(tensors).recognise(Hints::default()).expect_err("not a network of ours").to_string()
    };
    assert!(other(&["layer1.0.conv1.weight", "fc.weight"]).contains("`fc.weight`"));
    assert!(checkpoint(BTreeMap::new()).recognise(Hints::default()).unwrap_err().to_string().contains("no tensors"));
    // The backbone alone, under the names of a network of ours.
    let mut backbone = hollow(&MOBILENET);
    backbone.retain(|name, _| name.starts_with("backbone.1."));
    assert!(checkpoint(backbone).recognise(Hints::default()).is_err());
}

#[test]
fn missing_extra_and_misshapen_tensors_are_all_named() {
    let mut tensors = seeded(MOBILENET).tensors().clone();
    let scalar = Tensor::from_f32(vec![], &[0.0]).unwrap();
    let missing = [
        "backbone.0.0.weight",
        "backbone.7.block.1.1.running_var",
        "face_decoder.hat_token.weight",
        "linear_fuse.weight",
    ];
    for name in missing {
        tensors.remove(name).unwrap();
    }
    // Counters feed nothing, so they may be missing.
    tensors.remove("backbone.0.1.num_batches_tracked").unwrap();
    let extra = ["classifier.bias", "linear_c.4.proj.weight"];
    for name in extra {
        tensors.insert(name.into(), scalar.clone());
    }
    let misshapen = ["backbone.16.0.weight", "linear_c.0.proj.weight", "pe_layer.positional_encoding_gaussian_matrix"];
    for name in misshapen {
        tensors.insert(name.into(), scalar.clone()).unwrap();
    }
    let error = checkpoint(tensors).into_weights(Hints::default()).unwrap_err();
    let message = error.to_string();
    for name in missing.iter().chain(&extra).chain(&misshapen) {
        assert!(message.contains(name), "`{name}` is not in: {message}");
    }
    assert!(message.contains("linear_c.0.proj.weight: found scalar, expected 256x24"), "{message}");
    let found = problems(error);
    assert_eq!(found.missing, missing);
    assert_eq!(found.extra, extra);
    assert_eq!(found.misshapen.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), misshapen);
    assert!(found.not_finite.is_empty() && found.not_float.is_empty());
}

#[test]
fn nan_and_infinite_weights_are_named_with_their_number() {
    let mut tensors = seeded(MOBILENET).tensors().clone();
    let mut spoil = |name: &str, dtype: DType, bad: &[(usize, f64)]| {
        let tensor = &tensors[name];
        let mut values: Vec<f64> = tensor.values().iter().map(|&v| v.into()).collect();
        for &(at, value) in bad {
            values[at] = value;
        }
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&v| half::f16::from_f64(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        let spoilt = Tensor::from_bytes(dtype, tensor.shape().to_vec(), bytes).unwrap();
        tensors.insert(name.into(), spoilt);
    };
    spoil("backbone.0.0.weight", DType::F32, &[(5, f64::NAN), (431, f64::INFINITY)]);
    spoil("linear_c.1.proj.bias", DType::F16, &[(255, f64::NEG_INFINITY)]);
    spoil("linear_c.2.proj.bias", DType::BF16, &[(0, f64::NAN)]);
    // Finite in float64, but beyond float32.
    spoil("linear_c.3.proj.bias", DType::F64, &[(7, 1e39)]);
    spoil("face_decoder.nose_token.weight", DType::F64, &[]);
    let found = problems(checkpoint(tensors).into_weights(Hints::default()).unwrap_err());
    let named: Vec<_> = found.not_finite.iter().map(|n| (n.name.as_str(), n.count, n.len)).collect();
    assert_eq!(
        named,
        [
            ("backbone.0.0.weight", 2, 432),
            ("linear_c.1.proj.bias", 1, 256),
            ("linear_c.2.proj.bias", 1, 256),
            ("linear_c.3.proj.bias", 1, 256)
        ]
    );
    assert_eq!(Problems { not_finite: found.not_finite.clone(), ..Problems::default() }, found);
}

#[test]
fn integer_weights_are_named() {
    let mut tensors = seeded(MOBILENET).tensors().clone();
    let quantised = Tensor::from_bytes(DType::I8, vec![256], vec![1; 256]).unwrap();
    tensors.insert("linear_c.1.proj.bias".into(), quantised);
    let found = problems(checkpoint(tensors).into_weights(Hints::default()).unwrap_err());
    assert_eq!((found.not_float[0].name.as_str(), found.not_float[0].found.as_str()), ("linear_c.1.proj.bias", "int8"));
}

#[test]
fn lapa_and_helen_are_told_apart_by_the_command_then_metadata_then_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let weights = seeded(ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Lapa });
    let pt = training_checkpoint(weights.tensors());
    let put = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &pt).unwrap();
        path
    };
    let load = |path: &Path, variant: Option<Variant>| {
        Weights::load_with(path, Hints { variant, resolution: None }).map(|w| (w.spec.variant, w.resolution))
    };
    // Neither metadata nor a name that says anything.
    let plain = put("run_7/model_299.pt");
    assert!(matches!(load(&plain, None), Err(WeightsError::VariantUnknown { .. })));
    assert!(load(&plain, None).unwrap_err().to_string().contains("--variant"));
    assert_eq!(load(&plain, Some(Variant::Helen)).unwrap(), (Variant::Helen, None));
    assert!(matches!(load(&plain, Some(Variant::Celeb)), Err(WeightsError::VariantMismatch { .. })));
    // Names: the file's own, its folder's, a published one's resolution.
    assert_eq!(load(&put("mobilenet-HELEN.pth"), None).unwrap(), (Variant::Helen, None));
    assert_eq!(load(&put("swinb_lapa_448/model_299.pt"), None).unwrap(), (Variant::Lapa, Some(448)));
    assert_eq!(load(&put("my_lapa_run/helen.pt"), None).unwrap().0, Variant::Helen);
    assert!(matches!(load(&put("lapa_or_helen.pt"), None), Err(WeightsError::VariantUnknown { .. })));
    assert!(matches!(load(&put("laparoscopy.pt"), None), Err(WeightsError::VariantUnknown { .. })));
    // Metadata counts before the name, the command before both.
    let mut lapa = Weights::load_with(&plain, Hints { variant: Some(Variant::Lapa), resolution: None }).unwrap();
    lapa.resolution = Some(320);
    let saved = folder.path().join("helen.safetensors");
    lapa.save(&saved, SaveAs::default()).unwrap();
    assert_eq!(load(&saved, None).unwrap(), (Variant::Lapa, Some(320)));
    assert_eq!(load(&saved, Some(Variant::Helen)).unwrap(), (Variant::Helen, Some(320)));
}

#[test]
fn metadata_that_cannot_be_right_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    seeded(MOBILENET).save(&path, SaveAs::default()).unwrap();
    let sound = fs::read(&path).unwrap();
    let with = |from: &str, to: &str| {
        let mut bytes = sound.clone();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        Checkpoint::from_memory("x", bytes).unwrap().into_weights(Hints::default()).map(|w| w.spec)
    };
    assert_eq!(with("celeb", "celeb").unwrap(), MOBILENET);
    assert!(matches!(with(r#""variant":"celeb""#, r#""variant":"cel#b""#), Err(WeightsError::Metadata { .. })));
    assert!(matches!(with(r#""variant":"celeb""#, r#""variant":"helen""#), Err(WeightsError::VariantMismatch { .. })));
    let mut checkpoint = checkpoint(hollow(&MOBILENET));
    for resolution in ["0", "-5", "big", "65537"] {
        checkpoint.metadata.insert("resolution".into(), resolution.into());
        assert!(matches!(checkpoint.recognise(Hints::default()), Err(WeightsError::Metadata { .. })), "{resolution}");
    }
    // The command line's word stands in for what the metadata gets wrong.
    checkpoint.metadata.insert("variant".into(), "fp16".into());
    let asked = Hints { variant: Some(Variant::Celeb), resolution: Some(96) };
    assert_eq!(checkpoint.recognise(asked).unwrap(), (MOBILENET, Some(96)));
}

#[test]
fn a_training_checkpoint_converts_to_the_same_values_and_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let original = seeded(MOBILENET);
    let input = folder.path().join("model_299.pt");
    fs::write(&input, training_checkpoint(original.tensors())).unwrap();
    let loaded = Weights::load_with(&input, Hints { variant: None, resolution: Some(512) }).unwrap();
    assert_eq!((loaded.spec, loaded.resolution), (MOBILENET, Some(512)));
    let outputs = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    for output in &outputs {
        loaded.save(output, SaveAs::default()).unwrap();
    }
    assert!(fs::read(&outputs[0]).unwrap() == fs::read(&outputs[1]).unwrap(), "two runs gave different bytes");

    let checkpoint = Checkpoint::open(&outputs[0]).unwrap();
    assert_eq!(checkpoint.container, Container::Safetensors);
    let metadata: Vec<_> = checkpoint.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        metadata,
        [
            ("backbone", "mobilenet"),
            ("format", "pt"),
            ("resolution", "512"),
            ("segface_format_version", "1"),
            ("variant", "celeb")
        ]
    );
    let converted = checkpoint.into_weights(Hints::default()).unwrap();
    assert_eq!(converted.tensors().len(), original.tensors().len());
    for (name, tensor) in original.tensors() {
        let other = &converted.tensors()[name];
        assert!(
            (tensor.dtype(), tensor.shape(), tensor.bytes()) == (other.dtype(), other.shape(), other.bytes()),
            "{name}"
        );
        assert!(
            matches!(other.values(), std::borrow::Cow::Borrowed(_)) == (other.dtype() == DType::F32),
            "{name} was copied"
        );
    }
    // The file is one other safetensors readers accept.
    let bytes = fs::read(&outputs[0]).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.len(), original.tensors().len());
}

#[test]
fn narrow_types_round_weights_and_leave_statistics_alone() {
    let folder = tempfile::tempdir().unwrap();
    let original = seeded(MOBILENET);
    for (dtype, step) in [(DType::F16, 2f32.powi(-11)), (DType::BF16, 2f32.powi(-8))] {
        let path = folder.path().join(dtype.to_string());
        original.save(&path, SaveAs { dtype: Some(dtype), force: false }).unwrap();
        let stored = Weights::load(&path).unwrap();
        for (name, tensor) in original.tensors() {
            let other = &stored.tensors()[name];
            let kept = name.contains("running_") || name.ends_with("gaussian_matrix") || !tensor.dtype().is_float();
            assert_eq!(other.dtype(), if kept { tensor.dtype() } else { dtype }, "{name}");
            for (a, b) in tensor.values().iter().zip(other.values().iter()) {
                // Half a unit in the last place; float16 has a floor of 2^-25 for subnormals.
                assert!((a - b).abs() <= a.abs() * step + 2f32.powi(-25), "{name}: {a} became {b}");
            }
        }
    }
}

#[test]
fn values_too_large_for_a_type_are_not_written_as_infinity() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = seeded(MOBILENET).tensors().clone();
    let mut large = vec![1.0; 256];
    large[3] = 70_000.0;
    tensors.insert("linear_c.1.proj.bias".into(), Tensor::from_f32(vec![256], &large).unwrap());
    let weights = checkpoint(tensors).into_weights(Hints::default()).unwrap();
    let path = folder.path().join("x");
    let error = weights.save(&path, SaveAs { dtype: Some(DType::F16), force: false }).unwrap_err();
    assert!(error.to_string().contains("`linear_c.1.proj.bias`"), "{error}");
    assert!(!path.exists());
    weights.save(&path, SaveAs { dtype: Some(DType::BF16), force: false }).unwrap();
}

#[test]
fn demonstration_weights_are_inside_the_program() {
    let demo = resolve(None, None, Hints::default()).unwrap();
    assert_eq!((demo.spec, demo.resolution), (MOBILENET, Some(256)));
    // SEGFACE.md, section 4: MobileNet has 7.04 M parameters.
    assert_eq!((demo.parameters() as f64 / 1e4).round(), 704.0);
    let (shape, values) = demo.tensor("backbone.0.0.weight").unwrap();
    assert_eq!((shape, values.len()), (&[16, 3, 3, 3][..], 432));
    assert!(demo.tensor("backbone.0.0.bias").is_none());
    assert_eq!(resolve(None, Some("demo"), Hints::default()).unwrap().spec, MOBILENET);
}

#[test]
fn names_that_stand_for_no_model_are_refused_with_those_that_do() {
    let error = resolve(None, Some("swinb_celeba_1024"), Hints::default()).unwrap_err().to_string();
    assert!(PUBLISHED.iter().all(|model| error.contains(model.name)), "{error}");
    for name in ["random:", "random:swin_base", "random:swin_base/lapa2", "random:swin/celeb"] {
        assert!(
            matches!(resolve(None, Some(name), Hints::default()), Err(WeightsError::UnknownModel { .. })),
            "{name}"
        );
    }
    let both = resolve(Some(Path::new("x.pt")), Some("demo"), Hints::default());
    assert!(matches!(both, Err(WeightsError::TwoSources { .. })));
    assert!(matches!(resolve(Some(Path::new("x.pt")), None, Hints::default()), Err(WeightsError::Io { .. })));
}

#[test]
fn a_name_gives_the_model_it_stands_for_and_no_other_variant() {
    let asked = Hints { variant: None, resolution: Some(320) };
    let random = resolve(None, Some("random:swinv2_tiny/lapa"), asked).unwrap();
    assert_eq!(random.spec, ModelSpec { backbone: Backbone::SwinV2Tiny, variant: Variant::Lapa });
    assert_eq!(random.resolution, Some(320));
    assert_eq!(resolve(None, None, asked).unwrap().resolution, Some(320));
    for model in [None, Some("demo"), Some("random:swinv2_tiny/lapa")] {
        let other = resolve(None, model, Hints { variant: Some(Variant::Helen), resolution: None });
        assert!(matches!(other, Err(WeightsError::VariantMismatch { .. })), "{model:?}");
    }
}
