//! Writes training checkpoints of whole networks.

use crate::pt::{Pickle, View, archive};
use segface::weights::{DType, Tensor};
use std::collections::BTreeMap;

/// A training checkpoint as SegFace's training saves it: {epoch, iteration, state_dict_backbone}.
pub(crate) fn training_checkpoint(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut pickle = Pickle::new().op(b'}').op(b'(').text("epoch").int(299).text("iteration").int(226_500);
    pickle = pickle.text("state_dict_backbone").global("collections", "OrderedDict").raw(b")R(");
    let keys: Vec<String> = (0..tensors.len()).map(|i| format!("data/{i}")).collect();
    for ((name, tensor), key) in tensors.iter().zip(&keys) {
        let class = match tensor.dtype() {
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::I64 => "LongStorage",
            other => panic!("no test writes {other}"),
        };
        let shape: Vec<i64> = tensor.shape().iter().map(|&extent| extent as i64).collect();
        let strides = (0..shape.len()).map(|dim| shape[dim + 1..].iter().product()).collect();
        let key: &'static str = key["data/".len()..].to_owned().leak();
        let view = View { class, key, storage_len: tensor.len() as i64, offset: 0, shape, strides };
        pickle = pickle.text(name).tensor(&view);
    }
    let pickle = pickle.raw(b"uu").end();
    let mut records: Vec<(&str, &[u8])> = vec![("data.pkl", &pickle), ("byteorder", b"little")];
    records.extend(keys.iter().map(String::as_str).zip(tensors.values().map(Tensor::bytes)));
    records.push(("version", b"3\n"));
    archive(&records)
}
