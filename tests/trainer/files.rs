//! What a run writes, and what it starts from.

use crate::pixels::MODEL;
use crate::process::Asked;
use crate::synthetic;
use segface::image::decode_file;
use segface::train::{Layout, Line, Place, Role, Start, curves_png, curves_svg, export, initial};
use segface::weights::{DType, SaveAs, Weights, seeded};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// Fields of a protocol-buffer message: number and bytes; those of fixed length and varints as they lie.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let len = match key & 7 {
            0 => {
                let value = varint(&mut bytes);
                found.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, bytes[..len].to_vec()));
        bytes = &bytes[len..];
    }
    found
}

/// Step, tag and value of all scalars in a file; and steps at which a session began.
fn events(path: &Path) -> (Vec<(u64, String, f32)>, Vec<u64>) {
    let bytes = fs::read(path).unwrap();
    let (mut rest, mut scalars, mut starts, mut versions) = (&bytes[..], Vec::new(), Vec::new(), 0);
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let masked = |bytes: &[u8]| (crc32c(bytes) >> 15 | crc32c(bytes) << 17).wrapping_add(0xa282_ead8);
    while !rest.is_empty() {
        let len = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(word(&rest[8..]), masked(&rest[..8]));
        let message = &rest[12..12 + len];
        assert_eq!(word(&rest[12 + len..]), masked(message));
        rest = &rest[16 + len..];
        let fields_of = fields(message);
        let step = fields_of.iter().find(|(number, _)| *number == 2).unwrap();
        let step = u64::from_le_bytes(step.1[..].try_into().unwrap());
        for (number, bytes) in fields_of {
            match number {
                3 => {
                    assert_eq!(bytes, b"brain.Event:2");
                    versions += 1;
                }
                5 => {
                    for (_, value) in fields(&bytes) {
                        let parts: BTreeMap<u64, Vec<u8>> = fields(&value).into_iter().collect();
                        let tag = String::from_utf8(parts[&1].clone()).unwrap();
                        scalars.push((step, tag, f32::from_le_bytes(parts[&2][..].try_into().unwrap())));
                    }
                }
                7 => {
                    assert_eq!(fields(&bytes), [(1, 1u64.to_le_bytes().to_vec())]);
                    starts.push(step);
                }
                _ => {}
            }
        }
    }
    assert_eq!(versions, 1);
    (scalars, starts)
}

#[test]
fn a_run_leaves_a_log_events_curves_and_weights_and_its_loss_falls() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let mut asked = Asked { epochs: 40, stop_after: Some(100), ..Asked::new(&data, &folder.path().join("run")) };
    asked.save_steps = 0;
    asked.run(&Place::alone()).unwrap();
    (asked.stop_after, asked.resume) = (None, true);
    let summary = asked.run(&Place::alone()).unwrap();
    assert_eq!((summary.steps, summary.of, summary.resumed_at), (200, 200, 100));
    let text = fs::read_to_string(asked.folder.join("log.jsonl")).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let losses: Vec<f64> =
        lines.iter().filter_map(|line| if let Line::Epoch { loss, .. } = line { Some(*loss) } else { None }).collect();
    assert_eq!(losses.len(), 40);
    assert!(losses[39] < 0.75 * losses[0], "{losses:?}");
    // Rates: a warm-up of three steps, a tenth from epoch 2 on.
    let rate = |wanted: u64| {
        lines.iter().find_map(|line| match line {
            Line::Steps { step, learning_rate, .. } if *step == wanted => Some(*learning_rate),
            _ => None,
        })
    };
    assert_eq!((rate(2), rate(4), rate(12)), (Some(0.05 * (2.0 / 3.0)), Some(0.05), Some(0.05 * 0.1)));

    let mut files: Vec<_> = crate::finished::names(&asked.folder);
    files.retain(|name| name.contains("tfevents"));
    assert_eq!(files.len(), 2);
    let (first, second) = (events(&asked.folder.join(&files[0])), events(&asked.folder.join(&files[1])));
    // What an event file said of steps that are done again is taken back.
    assert_eq!((first.1.len(), &second.1[..]), (0, &[101][..]));
    let told: Vec<(u64, f32)> =
        first.0.iter().chain(&second.0).filter(|s| s.1 == "train/loss").map(|s| (s.0, s.2)).collect();
    let logged: Vec<(u64, f32)> = lines
        .iter()
        .filter_map(|line| if let Line::Steps { step, loss, .. } = line { Some((*step, *loss as f32)) } else { None })
        .collect();
    assert_eq!(told, logged);

    let picture = decode_file(&asked.folder.join("curves.png"), 10_000_000).unwrap();
    let shows = |color: [u8; 3]| picture.pixels.chunks(3).filter(|pixel| *pixel == color).count();
    for color in [[0, 114, 178], [230, 159, 0], [0, 158, 115], [102, 102, 102], [0, 0, 0]] {
        assert!(shows(color) > 100, "{color:?}: {}", shows(color));
    }
    let svg = fs::read_to_string(asked.folder.join("curves.svg")).unwrap();
    assert!(
        svg.matches("<polyline").count() >= 4 && svg.contains("mobilenet/celeb") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
}

#[test]
fn curves_of_nothing_and_of_one_point_can_be_drawn() {
    let one = Line::Validation {
        step: 7,
        epoch: 0,
        mean_f1: None,
        mean_f1_of_present: Some(0.5),
        pixel_accuracy: 0.6,
        mean_iou: 0.4,
        images: 2,
        seconds: 1.0,
    };
    for lines in [&[][..], &[one][..]] {
        assert_eq!(curves_png("title", lines).unwrap().width, 960);
        assert!(curves_svg("title", lines).unwrap().contains("title"));
    }
}

/// A layout's network as weights, through a file.
fn through_file(layout: &Layout, (parameters, buffers): &(Vec<f32>, Vec<f32>)) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model_0.safetensors");
    export(&path, layout, 64, parameters, buffers).unwrap();
    Weights::load(&path).unwrap()
}

#[test]
fn weights_that_a_run_starts_from_come_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(MODEL);
    let original = seeded(MODEL);
    let path = folder.path().join("weights.safetensors");
    original.save(&path, SaveAs::default()).unwrap();
    let arrays = initial(&layout, &Start::File(path), 1).unwrap();
    let again = through_file(&layout, &arrays);
    assert_eq!((again.spec, again.resolution), (MODEL, Some(64)));
    assert_eq!(again.tensors().len(), original.tensors().len());
    for (name, tensor) in original.tensors() {
        let stored = &again.tensors()[name];
        assert_eq!((stored.dtype(), stored.shape()), (tensor.dtype(), tensor.shape()), "{name}");
        assert!(stored.bytes() == tensor.bytes(), "{name}");
    }
    let other = Layout::new(segface::ModelSpec { backbone: segface::Backbone::ResNet, ..MODEL });
    let weights = folder.path().join("weights.safetensors");
    let error = initial(&other, &Start::File(weights), 1).unwrap_err().to_string();
    assert!(error.contains("mobilenet/celeb network, the run trains resnet/celeb"), "{error}");
}

#[test]
fn a_classifier_gives_the_backbone_and_random_numbers_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(MODEL);
    let path = folder.path().join("mobilenet_v3_large.safetensors");
    // What torchvision's state dict would be: other names, a classifier, no decoder.
    let network = seeded(MODEL);
    let mut theirs: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for (name, tensor) in network.tensors().iter().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
        if let Some(rest) = name.strip_prefix("backbone.") {
            theirs.insert(format!("features.{rest}"), tensor.values().into_owned());
            shapes.insert(format!("features.{rest}"), tensor.shape().to_vec());
        }
    }
    theirs.insert("classifier.0.weight".into(), vec![0.5; 12]);
    shapes.insert("classifier.0.weight".into(), vec![3, 4]);
    let save = |theirs: &BTreeMap<String, Vec<f32>>| {
        let bytes: BTreeMap<&String, Vec<u8>> =
            theirs.iter().map(|(name, values)| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
        let views: BTreeMap<&String, safetensors::tensor::TensorView<'_>> = bytes
            .iter()
            .map(|(name, bytes)| {
                let dtype = safetensors::Dtype::F32;
                (*name, safetensors::tensor::TensorView::new(dtype, shapes[*name].clone(), bytes).unwrap())
            })
            .collect();
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    save(&theirs);
    let (parameters, buffers) = initial(&layout, &Start::File(path.clone()), 1).unwrap();
    let (random, _) = initial(&layout, &Start::Random, 1).unwrap();
    for entry in layout.parameters() {
        let values = &parameters[entry.range.clone()];
        if entry.name.starts_with("backbone.") {
            assert!(*values == *network.tensors()[&entry.name].values(), "{}", entry.name);
        } else {
            assert!(*values == random[entry.range.clone()], "{}", entry.name);
        }
    }
    for entry in layout.buffers().iter().filter(|entry| entry.role == Role::Statistic) {
        assert!(buffers[entry.range.clone()] == *network.tensors()[&entry.name].values(), "{}", entry.name);
    }
    theirs.remove("features.4.block.1.0.weight");
    save(&theirs);
    let error = initial(&layout, &Start::File(path), 1).unwrap_err().to_string();
    assert!(
        error.contains("mobilenet_v3_large") && error.contains("`backbone.4.block.1.0.weight` is missing"),
        "{error}"
    );
}
