//! Tasks of gemm and the convolutions.

use crate::harness::check;

pub static OPERATORS: &[&str] = &["gemm", "conv2d", "conv_transpose2d", "depthwise"];

#[test]
fn gemm_of_awkward_sizes() {
    check(&[
        "gemm k=1 m=1 n=1",
        "gemm k=37 m=1 n=1500",
        "gemm epilogue=bias k=9 m=3 n=203",
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

#[test]
fn convolutions_in_rows() {
    check(&[
        "conv2d c=1 h=1 kh=1 kw=1 n=1 o=1 w=1",
        "conv2d c=3 epilogue=bias+relu h=9 kh=3 kw=3 n=2 o=5 pads=[1,1,1,1] w=7",
        "conv2d c=3 epilogue=bias+residual+tanh h=11 kh=5 kw=3 n=1 o=17 pads=[2,0,1,3] strides=[2,1] w=13",
        "conv2d c=4 dilations=[2,3] h=15 kh=3 kw=3 n=1 o=6 pads=[2,3,2,3] strides=[1,2] w=17",
        "conv2d c=6 epilogue=bias groups=3 h=5 kh=3 kw=2 n=2 o=9 w=6 weight=dynamic",
        "conv2d c=5 epilogue=residual groups=5 h=4 kh=3 kw=3 n=1 o=10 pads=[1,1,1,1] w=4",
        "conv2d c=17 h=1 kh=1 kw=3 n=1 o=33 pads=[0,2,0,0] w=23",
        "conv2d c=2 h=2 kh=5 kw=5 n=1 o=3 pads=[4,4,4,4] w=2",
    ]);
}

#[test]
fn convolutions_in_blocks() {
    check(&[
        "conv2d c=16 h=7 in=channels16h1 kh=3 kw=3 n=1 o=16 out=channels16h0 pads=[1,1,1,1] w=7",
        "conv2d c=40 epilogue=bias+relu h=6 in=channels16h1 kh=3 kw=3 n=2 o=24 out=channels16h2 pads=[1,1,1,1] w=5",
        "conv2d c=33 epilogue=bias+residual+sigmoid h=9 in=channels16h0 kh=1 kw=1 n=1 o=49 out=channels16h1 strides=[2,2] w=9",
        "conv2d c=24 epilogue=bias+hard_swish h=13 in=channels16h2 kh=5 kw=5 n=1 o=70 out=channels16h1 pads=[2,2,2,2] strides=[2,2] w=11",
        "conv2d c=20 dilations=[2,2] h=9 in=channels16h2 kh=3 kw=3 n=1 o=20 out=channels16h1 pads=[2,2,2,2] w=9",
        "conv2d c=64 epilogue=residual groups=2 h=5 in=channels16h1 kh=3 kw=3 n=2 o=32 out=channels16h0 pads=[1,1,1,1] w=5",
        "conv2d c=32 epilogue=bias h=8 in=channels16h0 kh=3 kw=3 n=1 o=16 out=channels16h0 pads=[1,1,1,1] w=8",
        "conv2d c=32 epilogue=bias h=8 in=channels16h0 kh=3 kw=3 n=1 o=18 out=channels16h0 pads=[1,1,1,1] w=8 weight=dynamic",
        "conv2d c=12 epilogue=bias+residual+relu groups=3 h=6 in=channels16h1 kh=3 kw=3 n=2 o=18 out=channels16h1 pads=[1,1,1,1] w=6",
        "conv2d c=3 epilogue=bias+relu h=12 kh=7 kw=7 n=2 o=24 out=channels16h1 pads=[3,3,3,3] strides=[2,2] w=14",
        "conv2d c=48 epilogue=bias+residual h=4 in=channels16h0 kh=1 kw=1 n=3 o=10 w=3",
    ]);
}

#[test]
fn depthwise_convolutions() {
    check(&[
        "depthwise c=1 h=1 kh=1 kw=1 n=1 w=1",
        "depthwise c=17 epilogue=bias+relu h=7 in=channels16h1 kh=3 kw=3 n=2 out=channels16h1 pads=[1,1,1,1] w=9",
        "depthwise c=24 epilogue=bias+residual+hard_sigmoid(0.2,0.5) h=8 in=channels16h1 kh=3 kw=3 n=1 out=channels16h2 pads=[1,1,1,1] strides=[2,2] w=7",
        "depthwise c=40 epilogue=bias+hard_swish h=14 in=channels16h2 kh=5 kw=5 n=1 out=channels16h0 pads=[2,2,2,2] w=13",
        "depthwise c=8 epilogue=bias h=9 in=channels16h0 kh=5 kw=5 n=1 out=channels16h1 pads=[1,2,2,2] strides=[2,3] w=11",
        "depthwise c=5 dilations=[2,1] epilogue=residual+clip(0,6) h=9 kh=3 kw=2 n=2 pads=[2,0,2,1] w=6",
        "depthwise c=20 epilogue=bias+residual+silu h=4 in=channels16h1 kh=3 kw=3 n=1 pads=[1,1,1,1] w=5",
        "depthwise c=18 epilogue=bias+sigmoid h=4 kh=3 kw=3 n=1 out=channels16h1 pads=[1,1,1,1] w=5 weight=dynamic",
        "depthwise c=3 h=2 kh=7 kw=7 n=1 pads=[3,3,3,3] w=2",
    ]);
}

#[test]
fn transposed_convolutions() {
    check(&[
        "conv_transpose2d c=1 h=1 kh=1 kw=1 n=1 o=1 w=1",
        "conv_transpose2d c=32 epilogue=bias+relu h=5 in=channels16h1 kh=2 kw=2 n=2 o=16 out=channels16h1 strides=[2,2] w=7",
        "conv_transpose2d c=20 epilogue=bias+residual+sigmoid h=4 in=channels16h1 kh=3 kw=3 n=1 o=19 out=channels16h0 pads=[1,1,1,1] strides=[2,2] w=5",
        "conv_transpose2d c=3 epilogue=bias h=4 kh=4 kw=3 n=2 o=5 output_pads=[1,0] pads=[1,0,0,1] strides=[3,2] w=5",
        "conv_transpose2d c=4 dilations=[2,1] h=5 kh=3 kw=2 n=1 o=6 output_pads=[1,0] w=4",
        "conv_transpose2d c=6 epilogue=residual groups=3 h=3 kh=2 kw=2 n=1 o=9 strides=[3,3] w=3",
        "conv_transpose2d c=64 groups=2 h=3 in=channels16h2 kh=3 kw=3 n=1 o=32 out=channels16h1 w=3",
        "conv_transpose2d c=18 epilogue=bias h=4 in=channels16h0 kh=2 kw=2 n=1 o=18 out=channels16h1 strides=[2,2] w=3 weight=dynamic",
    ]);
}

#[test]
fn convolutions_of_three_by_three() {
    check(&[
        "conv2d c=16 h=4 in=channels16h1 kh=3 kw=3 n=1 o=16 out=channels16h0 pads=[1,1,1,1] w=4",
        "conv2d c=40 epilogue=bias+relu h=15 in=channels16h1 kh=3 kw=3 n=2 o=24 out=channels16h2 pads=[1,1,1,1] w=13",
        "conv2d c=64 epilogue=bias+residual+sigmoid h=7 in=channels16h2 kh=3 kw=3 n=1 o=49 out=channels16h1 pads=[1,1,1,1] w=9",
        "conv2d c=17 epilogue=bias+gelu h=9 in=channels16h0 kh=3 kw=3 n=1 o=33 out=channels16h1 w=8",
        "conv2d c=128 h=6 in=channels16h1 kh=3 kw=3 n=1 o=32 out=channels16h1 pads=[0,1,1,0] w=6",
    ]);
}

#[test]
fn first_layers() {
    check(&[
        "conv2d c=3 epilogue=bias+relu h=12 kh=7 kw=7 n=2 o=24 out=channels16h1 pads=[3,3,3,3] strides=[2,2] w=14",
        "conv2d c=1 epilogue=bias+tanh h=9 kh=5 kw=5 n=1 o=6 out=channels16h0 pads=[2,2,2,2] w=9",
        "conv2d c=3 epilogue=bias+residual h=8 kh=3 kw=3 n=1 o=32 out=channels16h1 pads=[0,0,1,1] strides=[2,2] w=8",
        "conv2d c=4 dilations=[2,2] h=9 kh=3 kw=3 n=1 o=16 out=channels16h1 pads=[2,2,2,2] w=7",
    ]);
}
