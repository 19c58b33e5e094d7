//! Tasks of gemm and the convolutions.

use crate::harness::check;

pub static OPERATORS: &[&str] = &["gemm", "conv2d", "conv_transpose2d", "depthwise"];

#[test]
fn gemm_of_awkward_sizes() {
    check(&[
        "gemm k=1 m=1 n=1",
        "gemm b=const k=1 m=1 n=1",
        "gemm b=const epilogue=bias+relu k=37 m=7 n=17",
        "gemm b=const epilogue=bias+residual+gelu k=131 m=13 n=31",
        "gemm b=const epilogue=residual k=16 m=6 n=16",
        "gemm b=const k=300 m=97 n=49",
        "gemm b=const epilogue=bias+clip(0,0.5) k=530 m=50 n=64",
        "gemm alpha=0.125 k=64 m=29 n=33",
        "gemm alpha=2 epilogue=bias+sigmoid k=5 m=3 n=3",
        "gemm b=const epilogue=bias k=257 m=1 n=100",
        "gemm epilogue=bias+tanh k=257 m=2 n=77",
        "gemm k=70 m=4 n=65 trans_b=1",
    ]);
}

#[test]
fn gemm_of_transposed_operands() {
    check(&[
        "gemm k=37 m=19 n=23 trans_a=1",
        "gemm k=37 m=19 n=23 trans_b=1",
        "gemm k=37 m=19 n=23 trans_a=1 trans_b=1",
        "gemm b=const k=33 m=1 n=18 trans_b=1",
        "gemm b=const k=20 m=9 n=40 trans_a=1 trans_b=1",
    ]);
}

#[test]
fn gemm_of_blocked_layouts() {
    check(&[
        "gemm a=columns16 b=const c=columns16 epilogue=bias+residual+relu k=40 m=23 n=50",
        "gemm a=columns16 b=const c=columns16 epilogue=bias+sigmoid k=16 m=7 n=17",
        "gemm a=rows b=const c=columns16 k=300 m=15 n=33",
        "gemm a=columns16 b=const c=rows epilogue=residual k=19 m=5 n=33",
        "gemm a=columns16 batch_a=[3] batch_b=[3] c=columns16 k=19 m=5 n=33",
    ]);
}

#[test]
fn gemm_of_batches() {
    check(&[
        "gemm batch_a=[5] batch_b=[5] k=13 m=7 n=19",
        "gemm batch_a=[2,3] batch_b=[2,3] k=64 m=33 n=33 trans_b=1",
        "gemm batch_a=[2,1] batch_b=[1,3] k=8 m=3 n=20",
        "gemm batch_a=[4] batch_b=[1] epilogue=bias k=8 m=3 n=20",
        "gemm batch_a=[1] batch_b=[4] epilogue=residual k=8 m=3 n=20",
        "gemm b=const batch_a=[3] batch_b=[3] k=8 m=3 n=20",
        "gemm b=const batch_a=[3] batch_b=[1] epilogue=bias k=8 m=3 n=20",
        "gemm batch_a=[7] batch_b=[7] k=11 m=9 n=9 trans_a=1",
    ]);
}
