//! Writes `torch.save` files, sound and unsound. The sound ones of CPython's own pickler are in fixtures/torch_save.

use std::io::{Cursor, Write};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A pickle that is being written, opcode by opcode (protocol 2).
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Pickle {
        Pickle(vec![0x80, 2])
    }

    pub(crate) fn op(mut self, opcode: u8) -> Pickle {
        self.0.push(opcode);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Pickle {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Pickle {
        self.op(b'X').raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    /// LONG1 of eight bytes, so that any count can be written.
    pub(crate) fn int(self, value: i64) -> Pickle {
        self.raw(&[0x8a, 8]).raw(&value.to_le_bytes())
    }

    pub(crate) fn ints(self, values: &[i64]) -> Pickle {
        values.iter().fold(self.op(b'('), |pickle, &value| pickle.int(value)).op(b't')
    }

    /// A tensor that views the storage `key`.
    pub(crate) fn tensor(self, view: &View) -> Pickle {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b'(')
            .op(b'(')
            .text("storage")
            .global("torch", view.class)
            .text(view.key)
            .text("cpu")
            .int(view.storage_len)
            .op(b't')
            .op(b'Q')
            .int(view.offset)
            .ints(&view.shape)
            .ints(&view.strides)
            .op(0x89)
            .global("collections", "OrderedDict")
            .raw(b")Rt")
            .op(b'R')
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.op(b'.').0
    }
}

/// The arguments of `_rebuild_tensor_v2`, whatever they are.
pub(crate) struct View {
    pub(crate) class: &'static str,
    pub(crate) key: &'static str,
    pub(crate) storage_len: i64,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// A float32 view [2, 3] of storage `0`, which has six elements.
pub(crate) fn sound_view() -> View {
    View { class: "FloatStorage", key: "0", storage_len: 6, offset: 0, shape: vec![2, 3], strides: vec![3, 1] }
}

/// `{"w": <tensor>}`
pub(crate) fn one_tensor(view: &View) -> Vec<u8> {
    Pickle::new().op(b'}').text("w").tensor(view).op(b's').end()
}

/// A zip archive of plain records, named as torch names them.
pub(crate) fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    let named: Vec<_> = records.iter().map(|&(name, content)| (format!("archive/{name}"), content)).collect();
    zip_of(&named)
}

/// A zip archive of plain records under these names.
pub(crate) fn zip_of(records: &[(String, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    for (name, content) in records {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A file with this pickle and one storage `0` of six float32 values, 0 to 5.
pub(crate) fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    archive(&[("data.pkl", pickle), ("byteorder", b"little"), ("data/0", &storage), ("version", b"3\n")])
}
