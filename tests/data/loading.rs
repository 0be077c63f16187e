//! The loader: the same batches whatever the number of threads, in order, whole.

use crate::synthetic;
use segface::Variant;
use segface::data::{
    Augmentation, Batch, Dataset, Loader, LoaderOptions, Preparation, RandomAffine, Sampler, Split, Tail,
};
use segface_kernels::{Context, Isa};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

const SIDE: usize = 32;

fn train(variant: Variant, root: &Path) -> Arc<Dataset> {
    Arc::new(Dataset::open(variant, root, Split::Train).unwrap())
}

fn options(dataset: &Dataset) -> LoaderOptions {
    LoaderOptions { threads: 1, ..LoaderOptions::training(dataset, (SIDE, SIDE), 2, 32) }
}

fn all(dataset: &Arc<Dataset>, options: LoaderOptions, epoch: u64, indices: &[usize]) -> Vec<Batch> {
    let batches = Loader::new(Arc::clone(dataset), options).batches(epoch, indices.to_vec());
    batches.collect::<Result<_, _>>().unwrap()
}

/// Which sample, its image, labels and points.
type Placed = (usize, Vec<f32>, Vec<u8>, [[f32; 2]; 5]);

/// Samples one by one, each as a function of its place.
fn samples(batches: &[Batch]) -> Vec<Placed> {
    let mut samples = Vec::new();
    for batch in batches {
        assert_eq!(batch.images.len(), batch.len() * SIDE * SIDE * 3);
        assert_eq!((batch.labels.len(), batch.points.len()), (batch.len() * SIDE * SIDE, batch.len()));
        for (place, &index) in batch.indices.iter().enumerate() {
            let image = batch.images[place * SIDE * SIDE * 3..][..SIDE * SIDE * 3].to_vec();
            let labels = batch.labels[place * SIDE * SIDE..][..SIDE * SIDE].to_vec();
            samples.push((index, image, labels, batch.points[place]));
        }
    }
    samples
}

#[test]
fn batches_are_the_same_for_any_number_of_threads_and_any_prefetch() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = train(Variant::Lapa, &synthetic::lapa(folder.path()));
    let order = [3, 0, 4, 1, 2, 0, 3, 3, 1];
    let expected = all(&dataset, options(&dataset), 5, &order);
    assert_eq!(expected.iter().map(Batch::len).collect::<Vec<_>>(), [2, 2, 2, 2, 1]);
    for (threads, prefetch) in [(1, 1), (2, 1), (2, 3), (3, 2), (5, 8), (16, 1)] {
        let again = all(&dataset, LoaderOptions { threads, prefetch, ..options(&dataset) }, 5, &order);
        assert!(again == expected, "{threads} threads, {prefetch} ahead");
    }
}

#[test]
fn samples_depend_on_seed_epoch_and_index_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = train(Variant::Lapa, &synthetic::lapa(folder.path()));
    let order = [2, 4, 0, 1, 3];
    let of = |options: LoaderOptions, epoch, order: &[usize]| samples(&all(&dataset, options, epoch, order));
    let usual = of(options(&dataset), 0, &order);
    assert!(of(LoaderOptions { batch: 5, ..options(&dataset) }, 0, &order) == usual, "batch size");
    assert!(of(options(&dataset), 0, &order[2..]) == usual[2..], "resumed in the middle of an epoch");
    let mut ctx = Context::new(1, Isa::best());
    for (index, image, labels, points) in &usual {
        let sample = options(&dataset).preparation.sample(&mut ctx, &dataset, 0, *index).unwrap();
        assert!((&sample.image, &sample.labels, &sample.points) == (image, labels, points), "by itself");
    }
    let other_epoch = of(options(&dataset), 1, &order);
    let mut seeded = options(&dataset);
    seeded.preparation.seed = 33;
    let other_seed = of(seeded, 0, &order);
    for place in 0..order.len() {
        assert!(other_epoch[place].1 != usual[place].1 && other_seed[place].1 != usual[place].1);
    }
    // The drawn angle moves the landmarks of one image differently from epoch to epoch.
    let eyes: HashSet<[u32; 2]> =
        (0..20).map(|epoch| of(options(&dataset), epoch, &[0])[0].3[0].map(f32::to_bits)).collect();
    assert_eq!(eyes.len(), 20);
}

#[test]
fn only_lapas_train_split_is_augmented_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, root) in [
        (Variant::Celeb, synthetic::celeb(&folder.path().join("c"))),
        (Variant::Helen, synthetic::helen(&folder.path().join("h"))),
        (Variant::Lapa, synthetic::lapa(&folder.path().join("l"))),
    ] {
        for split in Split::ALL {
            let dataset = Dataset::open(variant, &root, split).unwrap();
            let published = Preparation::published(&dataset, (SIDE, SIDE), 1);
            let expected = match (variant, split) {
                (Variant::Lapa, Split::Train) => Augmentation::Affine(RandomAffine::LAPA),
                _ => Augmentation::Nothing,
            };
            assert_eq!(published.augment, expected);
            assert_eq!(published.warp, variant == Variant::Lapa);
        }
    }
    // Images without landmarks can be augmented too.
    let dataset = Dataset::open(Variant::Celeb, &folder.path().join("c"), Split::Train).unwrap();
    let asked = Preparation {
        augment: Augmentation::Affine(RandomAffine { degrees: 10.0, scale: (0.9, 1.1), shift: 2.0 }),
        ..Preparation::plain(Variant::Celeb, (SIDE, SIDE))
    };
    let mut ctx = Context::new(1, Isa::best());
    let moved = asked.sample(&mut ctx, &dataset, 0, 0).unwrap();
    let plain = Preparation::plain(Variant::Celeb, (SIDE, SIDE)).sample(&mut ctx, &dataset, 0, 0).unwrap();
    assert!(moved.image != plain.image && moved.labels != plain.labels);
}

#[test]
fn strong_augmentation_varies_every_data_set_and_is_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    for (variant, root) in [
        (Variant::Celeb, synthetic::celeb(&folder.path().join("c"))),
        (Variant::Helen, synthetic::helen(&folder.path().join("h"))),
        (Variant::Lapa, synthetic::lapa(&folder.path().join("l"))),
    ] {
        let dataset = train(variant, &root);
        let mut strong = options(&dataset);
        strong.preparation.augment = Augmentation::Strong;
        let of = |epoch| samples(&all(&dataset, strong, epoch, &[0, 1, 2]));
        let first = of(0);
        assert!(first == of(0));
        let classes = variant.classes().len();
        for (again, once) in of(1).iter().zip(&first) {
            assert!(again.1 != once.1 && again.2 != once.2, "{variant}");
            assert!(again.2.iter().all(|&label| usize::from(label) < classes));
            assert!(again.1.iter().all(|value| value.is_finite()));
            assert_eq!(again.3 == once.3, variant == Variant::Celeb, "{variant} has landmarks, which move");
        }
    }
}

#[test]
fn a_last_batch_that_is_not_full_comes_or_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = train(Variant::Celeb, &synthetic::celeb(folder.path()));
    for (count, batch, kept, whole) in [(5, 2, 3, 2), (4, 2, 2, 2), (1, 3, 1, 0), (0, 3, 0, 0)] {
        let options = LoaderOptions { batch, threads: 2, ..options(&dataset) };
        let indices: Vec<usize> = (0..count).collect();
        let loader = Loader::new(Arc::clone(&dataset), options);
        let mut batches = loader.batches(0, indices.clone());
        assert_eq!(batches.len(), kept);
        let seen: Vec<usize> = batches.by_ref().flat_map(|batch| batch.unwrap().indices).collect();
        assert_eq!((seen, batches.len()), (indices.clone(), 0));
        let dropping = Loader::new(Arc::clone(&dataset), LoaderOptions { drop_last: true, ..options });
        let batches: Vec<Batch> = dropping.batches(0, indices).collect::<Result<_, _>>().unwrap();
        assert!(batches.len() == whole && batches.iter().all(|b| b.len() == batch));
    }
}

#[test]
fn ranks_share_an_epoch_whose_samples_are_those_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = train(Variant::Lapa, &synthetic::lapa(folder.path()));
    let sampler = |rank, world_size| Sampler { len: 5, rank, world_size, seed: 32, shuffle: true, tail: Tail::Pad };
    let alone = samples(&all(&dataset, options(&dataset), 7, &sampler(0, 1).indices(7)));
    let mut shared: Vec<_> = (0..2)
        .map(|rank| samples(&all(&dataset, options(&dataset), 7, &sampler(rank, 2).indices(7))).into_iter())
        .collect();
    for expected in &alone {
        let rank = alone.iter().position(|sample| sample == expected).unwrap() % 2;
        assert!(shared[rank].next().as_ref() == Some(expected));
    }
    // Six places for five samples: the second rank sees the first one again.
    assert!(shared[0].next().is_none() && shared[1].next().as_ref() == Some(&alone[0]));
}

#[test]
fn a_bad_sample_fails_its_batch_by_name_and_the_others_still_come() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(folder.path());
    let dataset = train(Variant::Lapa, &root);
    std::fs::write(root.join("train/labels/002_0.png"), "no picture").unwrap();
    for threads in [1, 3] {
        let loader = Loader::new(Arc::clone(&dataset), LoaderOptions { threads, ..options(&dataset) });
        let results: Vec<_> = loader.batches(0, vec![0, 1, 2, 3, 4]).collect();
        let [Ok(first), Err(error), Ok(last)] = &results[..] else { panic!("{results:?}") };
        assert_eq!((&first.indices[..], &last.indices[..]), (&[0, 1][..], &[4][..]));
        let message = error.to_string();
        assert!(message.contains("002_0.png") && message.contains("not a PNG"), "{message}");
    }
}

#[test]
fn batches_can_be_dropped_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = train(Variant::Celeb, &synthetic::celeb(folder.path()));
    let indices: Vec<usize> = (0..100).map(|i| i % 5).collect();
    for taken in [0, 1, 7] {
        let loader = Loader::new(Arc::clone(&dataset), LoaderOptions { threads: 3, prefetch: 2, ..options(&dataset) });
        let mut batches = loader.batches(0, indices.clone());
        assert_eq!(batches.by_ref().take(taken).count(), taken);
        drop(batches);
    }
}
