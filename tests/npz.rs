//! npz archives: numpy's are read, ours are read by numpy, hostile ones are refused.

use kernels::Tensor;
use schema::DType;
use std::io::{Cursor, Write};
use tunewright::npz::{self, Limits, NpzError};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn archive(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn read(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, NpzError> {
    npz::read_bytes(bytes, &Limits::default())
}

#[test]
fn what_is_written_is_read_back_and_always_the_same_bytes() {
    let arrays = [
        ("x", Tensor::new(vec![2, 3], vec![1f32, -2., 3., 4., 5.5, f32::NAN])),
        ("ids", Tensor::new(vec![4], vec![1i64, -2, i64::MAX, 0])),
        ("scalar", Tensor::scalar(2.5f64)),
        ("none", Tensor::new(vec![0, 7], Vec::<u8>::new())),
        ("mask", Tensor::bools(vec![3], vec![true, false, true])),
        ("words", Tensor::strings(vec![2], vec!["häuser".into(), String::new()])),
    ];
    let given: Vec<(&str, &Tensor)> = arrays.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let write = || {
        let mut out = Cursor::new(Vec::new());
        npz::write(&mut out, &given).unwrap();
        out.into_inner()
    };
    let bytes = write();
    assert_eq!(bytes, write());
    for ((name, tensor), (wanted, given)) in read(&bytes).unwrap().iter().zip(&arrays) {
        assert_eq!((name.as_str(), tensor.dtype(), tensor.shape()), (*wanted, given.dtype(), given.shape()));
        assert_eq!((tensor.bytes(), tensor.texts()), (given.bytes(), given.texts()));
    }
}

#[test]
fn other_orders_become_rows_in_this_machines_order() {
    let fortran = npy("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }", &[1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0]);
    let big = npy("{'descr': '>i4', 'fortran_order': False, 'shape': (1,), }", &[0, 0, 1, 2]);
    let arrays = read(&archive(&[("f.npy", &fortran), ("b.npy", &big)], CompressionMethod::Deflated)).unwrap();
    assert_eq!(arrays[0].1.values::<i16>().unwrap()[..], [1, 2, 3, 4, 5, 6]);
    assert_eq!(arrays[1].1.values::<i32>().unwrap()[..], [258]);
}

#[test]
fn hostile_archives_are_refused_with_the_reason() {
    let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("objects", npy(&good.replace("<f4", "|O"), &[0; 16]), "pickled"),
        ("records", npy(&good.replace("'<f4'", "[('a', '<f4')]"), &[0; 8]), "several fields"),
        ("short", npy(good, &[0; 7]), "7 bytes"),
        ("long", npy(good, &[0; 9]), "9 bytes"),
        ("overflow", npy(&good.replace("(2,)", "(9223372036854775807, 9)"), &[0; 8]), "too many"),
        ("negative", npy(&good.replace("(2,)", "(-2,)"), &[0; 8]), "cannot be read"),
        ("rank", npy(&good.replace("(2,)", &format!("({})", "1, ".repeat(65))), &[0; 4]), "65 axes"),
        ("void", npy(&good.replace("<f4", "|V4"), &[0; 8]), "which no tensor has"),
        ("truth", npy(&good.replace("<f4", "|b1"), &[1, 2]), "neither 0 nor 1"),
        ("text", b"hello".to_vec(), "does not begin"),
        ("cut", b"\x93NUMPY\x01\x00\xff\xffx".to_vec(), "ends in its header"),
    ];
    for (name, bytes, reason) in cases {
        let error = read(&archive(&[("a.npy", bytes)], CompressionMethod::Stored)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("\"a\""), "{name}: {error}");
    }
    assert!(matches!(read(b"PK\x03\x04 nothing"), Err(NpzError::NotNpz(_))));
    assert!(matches!(read(b""), Err(NpzError::NotNpz(_))));
}

#[test]
fn bombs_stop_at_the_limits() {
    let zeros = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000,), }", &vec![0; 10_000_000]);
    let bomb = archive(&[("a.npy", &zeros)], CompressionMethod::Deflated);
    let error = read(&bomb).unwrap_err();
    assert!(matches!(error, NpzError::LimitExceeded { flag: "npz-ratio", .. }), "{error}");
    let stored = archive(&[("a.npy", &zeros)], CompressionMethod::Stored);
    let small = Limits { bytes: 1 << 20, ..Limits::default() };
    let error = npz::read_bytes(&stored, &small).unwrap_err();
    assert!(matches!(error, NpzError::LimitExceeded { flag: "npz-bytes", .. }), "{error}");
    let names: Vec<String> = (0..2000).map(|i| i.to_string()).collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    let error = read(&archive(&many, CompressionMethod::Stored)).unwrap_err();
    assert!(matches!(error, NpzError::LimitExceeded { flag: "npz-members", .. }), "{error}");
}

#[test]
fn headers_that_contradict_each_other_are_refused() {
    let array = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", &[1, 2, 3]);
    let mut bytes = archive(&[("a.npy", &array)], CompressionMethod::Stored);
    bytes[22] ^= 1;
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("its own header says"), "{error}");
}

#[test]
fn no_flipped_byte_makes_it_panic() {
    let array = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 8]);
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let whole = archive(&[("a.npy", &array), ("b.npy", &array)], method);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(arrays) = read(&bytes) {
                    assert!(arrays.iter().all(|(_, tensor)| tensor.dtype() != DType::String), "no array becomes another");
                }
            }
        }
        (0..whole.len()).for_each(|len| drop(read(&whole[..len])));
    }
}
