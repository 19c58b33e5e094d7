//! The model that ships with the repository.

use std::path::{Path, PathBuf};

/// `mnist_cnn.onnx`: two convolutions, a batch norm, two Gemms, a softmax; opset 9; random weights.
pub fn mnist_cnn() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx")
}

#[test]
fn is_there() {
    assert!(mnist_cnn().is_file());
}
