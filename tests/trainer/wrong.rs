//! What is wrong is said, and nothing is lost.

use crate::pixels::MODEL;
use crate::process::Asked;
use crate::synthetic;
use segface::train::{EngineChoice, Place, Recipe, STATE, TrainError};
use segface::{Error, ModelSpec, Variant};
use std::fs;

fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn refused(asked: &Asked) -> String {
    message(&asked.run(&Place::alone()).expect_err("this cannot run"))
}

#[test]
fn states_of_other_runs_are_neither_resumed_nor_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let run = folder.path().join("run");
    let asked = Asked { stop_after: Some(2), ..Asked::new(&data, &run) };
    let nothing = refused(&Asked { resume: true, ..asked.clone() });
    assert!(nothing.contains("no state of a run to resume"), "{nothing}");
    asked.run(&Place::alone()).unwrap();
    let before = asked.state();
    let exists = refused(&asked);
    assert!(exists.contains("--resume") && exists.contains("--expt_name"), "{exists}");
    let rate = refused(&Asked { resume: true, learning_rate: 0.5, ..asked.clone() });
    assert!(rate.contains("schedule.learning_rate was 0.05 and is 0.5"), "{rate}");
    let swin = ModelSpec { backbone: segface::Backbone::SwinBase, ..MODEL };
    let model = refused(&Asked { resume: true, model: swin, ..asked.clone() });
    assert!(model.contains("model.backbone was \"MobileNet\" and is \"SwinBase\""), "{model}");
    let recipe = Recipe { engine: EngineChoice::Tch, clip: None, ..asked.recipe() };
    let resumed = Asked { resume: true, ..asked.clone() };
    let engine = message(&resumed.run_with(&recipe, &Place::alone()).expect_err("this cannot run"));
    assert!(
        engine.contains("engine was \"ours\" and is \"tch\"") && engine.contains("clip was 0.5 and is none"),
        "{engine}"
    );
    assert_eq!(segface::train::recipe_of(&run), Some(asked.recipe()));
    assert!(before == asked.state());
    // Weights are no state.
    let other = Asked { folder: folder.path().join("weights"), resume: true, ..asked.clone() };
    fs::create_dir_all(&other.folder).unwrap();
    let demo = segface::weights::Weights::demo().unwrap();
    demo.save(&other.folder.join(STATE), segface::weights::SaveAs::default()).unwrap();
    let weights = refused(&other);
    assert!(weights.contains("no state of a run") && weights.contains("--init"), "{weights}");
    fs::write(other.folder.join(STATE), "state").unwrap();
    let text = refused(&other);
    assert!(text.contains("not a checkpoint"), "{text}");
}

#[test]
fn one_folder_has_one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let asked = Asked::new(&data, &folder.path().join("run"));
    fs::create_dir_all(&asked.folder).unwrap();
    let other = fs::File::create(asked.folder.join("run.lock")).unwrap();
    other.try_lock().unwrap();
    let text = refused(&asked);
    assert!(text.contains("another process is training"), "{text}");
    drop(other);
    asked.run(&Place::alone()).unwrap();
}

#[test]
fn numbers_that_are_none_end_the_run_with_the_name_of_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let asked = Asked::new(&data, &folder.path().join("run"));
    let poisoned = Asked { poisoned_at: Some(7), ..asked.clone() };
    let text = refused(&poisoned);
    assert!(text.contains("the gradient of `head.weight` is NaN at step 7"), "{text}");
    // The image of that step, by its name.
    assert!(text.contains("(images ") && text.contains(")"), "{text}");
    let resumed = Asked { resume: true, ..asked.clone() };
    let summary = resumed.run(&Place::alone()).unwrap();
    assert_eq!((summary.resumed_at, summary.steps), (6, 15));
    // A rate that throws parameters out of range.
    let wild = Asked { learning_rate: 1e38, folder: folder.path().join("wild"), ..asked };
    let text = refused(&wild);
    assert!(text.contains("the parameter `head.") || text.contains("the loss is"), "{text}");
}

#[test]
fn labels_without_a_class_and_splits_that_are_too_small_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::helen(&folder.path().join("data"));
    let label = data.join("train/3_label.png");
    let face = synthetic::Face::new(3, 90, 90);
    let mut labels = face.eleven();
    for row in labels.chunks_mut(90) {
        row[45] = 255;
        row[44] = 255;
    }
    synthetic::write_grey(&label, 90, 90, &labels);
    let helen = ModelSpec { variant: Variant::Helen, ..MODEL };
    let asked = Asked { model: helen, ..Asked::new(&data, &folder.path().join("run")) };
    let recipe = |asked: &Asked, images| segface::train::Recipe { images, ..asked.recipe() };
    let run = |asked: &Asked, images| {
        let recipe = recipe(asked, images);
        asked.run_with(&recipe, &Place::alone()).expect_err("this cannot run")
    };
    let text = message(&run(&asked, 7));
    assert!(text.contains("3: label 255 at pixel") && text.contains("11 classes"), "{text}");
    // Eight replicas of seven images each are one step too many.
    let large = Asked { folder: folder.path().join("large"), batch: 2, replicas: 8, ..asked };
    let error = run(&large, 7);
    assert!(matches!(error, Error::Train(TrainError::TooFew { found: 7, needed: 9, .. })), "{error}");
}
