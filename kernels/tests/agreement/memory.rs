//! Tasks of the memory-bound operators: plain ones, awkward extents (1, primes, one over a tile), every layout, every path of a
//! variant.

use crate::harness::check;

pub static OPERATORS: &[&str] = &[
    "elementwise",
    "copy",
    "transpose",
    "reorder",
    "softmax",
    "layer_norm",
    "reduce",
    "pool",
    "embedding",
    "gather",
    "lstm",
    "gru",
    "resize",
    "attention",
];

#[test]
fn elementwise_of_rows_and_blocks() {
    check(&[
        "elementwise expr=relu(add(a,b)) a=[2,37] b=[2,37] y=[2,37]",
        "elementwise expr=mul(a,sigmoid(add(a,b))) a=[3,5,257] b=[257] y=[3,5,257]",
        "elementwise expr=add(mul(a,b),c) a=[4,7,9] b=[7,1] c=[4,1,9] y=[4,7,9]",
        "elementwise expr=where(less(a,0.0),mul(a,b),a) a=[2,3,5,7] b=[3,1,1] y=[2,3,5,7]",
        "elementwise expr=exp(a) a=[1] y=[1]",
        "elementwise expr=relu(add(mul(a,b),c)) a=[5,3,700] b=[700] c=[5,1,700] y=[5,3,700]",
        "elementwise expr=add(mul(a,b),c) a=[7,65] b=[7,1] c=[65] y=[7,65]",
        "elementwise expr=add(mul(a,0.5),b) a=[4200,1003] b=[1003] y=[4200,1003]",
        "elementwise expr=add(a,1.5) a=[] y=[]",
        "elementwise expr=a a=[3,1] y=[3,1]",
        "elementwise expr=gelu(sub(a,b)) a=[1025] b=[1] y=[1025]",
        "elementwise expr=tanh(erf(min(a,max(b,neg(a))))) a=[2049] b=[2049] y=[2049]",
        "elementwise expr=div(sqrt(abs(a)),add(softplus(b),pow(abs(a),2.5))) a=[3,77] b=[77] y=[3,77]",
        "elementwise expr=elu(a,0.5) a=[99] y=[99]",
        "elementwise expr=clip(hard_sigmoid(a,0.2,0.5),0.1,leaky_relu(b,0.1)) a=[5,33] b=[5,33] y=[5,33]",
        "elementwise expr=add(mul(a,3),b) a=[5,33] b=[33] y=[5,33] a_type=i64 b_type=i64 y_type=i64",
        "elementwise expr=sub(mul(a,b),7) a=[5,33] b=[5,1] y=[5,33] a_type=i32 b_type=i32 y_type=i32",
        "elementwise expr=and(less(a,b),not(equal(c,3))) a=[5,33] b=[33] c=[5,1] c_type=i64 y=[5,33] y_type=bool",
        "elementwise expr=where(or(a,b),c,-inf) a=[5,1] b=[33] a_type=bool b_type=bool c=[1,33] y=[5,33]",
        "elementwise expr=cast(greater(a,0.25),f32) a=[700] y=[700]",
        "elementwise expr=cast(cast(a,f32),i64) a=[70] a_type=i32 y=[70] y_type=i64",
        "elementwise expr=mod(a,7) a=[70] a_type=i64 y=[70] y_type=i64",
        "elementwise expr=add(a,b) a=[2,20,5,7] a_layout=channels16h1 b=[2,20,5,7] b_layout=channels16h0 y=[2,20,5,7] y_layout=channels16h2",
        "elementwise expr=relu(add(mul(a,b),c)) a=[2,37,5,7] a_layout=channels16h0 b=[37,1,1] c=[1,37,1,1] y=[2,37,5,7] y_layout=channels16h0",
        "elementwise expr=mul(a,sigmoid(b)) a=[2,37,5,7] a_layout=channels16h0 b=[2,37,1,1] b_layout=channels16h0 y=[2,37,5,7] y_layout=channels16h1",
        "elementwise expr=mul(a,hard_sigmoid(b,0.16,0.5)) a=[2,32,15,17] a_layout=channels16h1 b=[2,32,1,1] y=[2,32,15,17] y_layout=channels16h1",
        "elementwise expr=add(exp(a),b) a=[2,20,5,7] a_layout=channels16h0 b=[2,1,5,7] y=[2,20,5,7] y_layout=channels16h0",
        "elementwise expr=add(a,b) a=[2,20,5,7] a_layout=channels16h0 b=[20,5,7] y=[2,20,5,7] y_layout=channels16h1",
        "elementwise expr=where(b,a,0.0) a=[2,20,5,7] a_layout=channels16h0 b=[2,20,1,7] b_type=bool y=[2,20,5,7] y_layout=channels16h1",
        "elementwise expr=gelu(add(a,b)) a=[2,3,9,40] a_layout=columns16 b=[40] y=[2,3,9,40] y_layout=columns16",
        "elementwise expr=mul(add(a,b),c) a=[9,40] a_layout=columns16 b=[9,1] c=[9,40] y=[9,40] y_layout=columns16",
    ]);
}

#[test]
fn transposes_of_every_width() {
    check(&[
        "transpose x=[7] perm=[0]",
        "transpose x=[] perm=[]",
        "transpose x=[5,3] perm=[1,0]",
        "transpose x=[130,67] perm=[1,0]",
        "transpose x=[64,48] perm=[1,0] x_type=i32",
        "transpose x=[9,40] perm=[1,0] x_type=i64",
        "transpose x=[2,9,3,8] perm=[0,2,1,3]",
        "transpose x=[2,9,3,8] perm=[0,2,3,1]",
        "transpose x=[2,9,3,8] perm=[3,1,2,0]",
        "transpose x=[2,1,3,8] perm=[1,3,0,2] x_type=bool",
        "transpose x=[1,17,5,6] perm=[0,2,3,1]",
        "transpose x=[3,4,5,6,2] perm=[4,2,0,3,1]",
    ]);
}

#[test]
fn reorders_between_layouts() {
    check(&[
        "reorder x=[3,5,7] y=[3,5,7]",
        "reorder x=[2,37,5,7] y=[2,37,5,7] y_layout=channels16h0",
        "reorder x=[2,3,9,11] y=[2,3,9,11] y_layout=channels16h2",
        "reorder x=[1,32,16,8] y=[1,32,16,8] y_layout=channels16h1",
        "reorder x=[2,37,5,7] x_layout=channels16h0 y=[2,37,5,7]",
        "reorder x=[1,37,5,7] x_layout=channels16h3 y=[1,37,5,7]",
        "reorder x=[3,32,5,7] x_layout=channels16h1 y=[3,32,5,7]",
        "reorder x=[3,20,5,7] x_layout=channels16h1 y=[3,20,5,7] y_layout=channels16h0",
        "reorder x=[3,20,5,7] x_layout=channels16h1 y=[3,20,5,7] y_layout=channels16h1",
        "reorder x=[2,7,40] y=[2,7,40] y_layout=columns16",
        "reorder x=[9,33] x_layout=columns16 y=[9,33]",
        "reorder x=[2,3,5,7] x_layout=columns16 y=[2,3,5,7]",
    ]);
}

#[test]
fn copies_of_every_kind() {
    check(&[
        "copy kind=join axis=1 x0=[2,3,4] x1=[2,5,4] x2=[2,1,4] y0=[2,9,4]",
        "copy kind=join axis=0 x0=[3] x1=[4] y0=[7] x0_type=i64 x1_type=i64 y0_type=i64",
        "copy kind=join axis=2 x0=[2,3,9] y0=[2,3,4] y1=[2,3,5]",
        "copy kind=join axis=1 groups=2 x0=[2,6,5] x1=[2,6,5] y0=[2,6,5] y1=[2,6,5]",
        "copy kind=join axis=1 groups=3 x0=[1,5,3] x1=[1,7,3] y0=[1,4,3] y1=[1,8,3]",
        "copy kind=join axis=1 x0=[2,32,5,7] x0_layout=channels16h1 x1=[2,16,5,7] x1_layout=channels16h0 y0=[2,48,5,7] y0_layout=channels16h1",
        "copy kind=join axis=1 x0=[2,20,5,7] x0_layout=channels16h0 x1=[2,7,5,7] x1_layout=channels16h0 y0=[2,27,5,7] y0_layout=channels16h0",
        "copy kind=join axis=1 groups=2 x0=[2,58,3,5] x0_layout=channels16h0 x1=[2,58,3,5] x1_layout=channels16h1 y0=[2,58,3,5] y0_layout=channels16h0 y1=[2,58,3,5] y1_layout=channels16h1",
        "copy kind=slice x0=[9,10] starts=[2,9] steps=[3,-2] y0=[3,5]",
        "copy kind=slice x0=[4,6,5] starts=[0,1,0] steps=[1,1,1] y0=[4,3,5]",
        "copy kind=slice x0=[3,20] starts=[0,1] steps=[1,2] y0=[3,10]",
        "copy kind=join axis=0 x0=[9000] x1=[5000] y0=[14000]",
        "copy kind=slice x0=[30001] starts=[2] steps=[2] y0=[15000]",
        "copy kind=slice x0=[3,5,59] starts=[0,1,2] steps=[2,2,2] y0=[2,2,29]",
        "copy kind=slice x0=[2,4,6,71] starts=[1,0,0,1] steps=[1,1,1,2] y0=[1,3,5,35] x0_type=i32 y0_type=i32",
        "copy kind=slice x0=[7,9] starts=[0,0] steps=[2,2] y0=[4,5]",
        "copy kind=slice x0=[3,20] starts=[0,1] steps=[1,2] y0=[3,10] x0_type=i64 y0_type=i64",
        "copy kind=slice x0=[9] starts=[8] steps=[-1] y0=[9] x0_type=i32 y0_type=i32",
        "copy kind=pad x0=[3,4] pads=[1,2,0,3] value=0.5 y0=[4,9]",
        "copy kind=pad x0=[5,4] pads=[-1,2,-2,0] value=0.5 y0=[2,6]",
        "copy kind=pad x0=[3,4] pads=[1,2,0,3] mode=edge value=0.0 y0=[4,9]",
        "copy kind=pad x0=[3,4] pads=[2,1,1,3] mode=reflect value=0.0 y0=[6,8]",
        "copy kind=pad x0=[3,4] pads=[2,4,3,3] mode=wrap value=0.0 y0=[8,11]",
        "copy kind=pad x0=[3,4] pads=[1,2,0,3] value=7.0 y0=[4,9] x0_type=i64 y0_type=i64",
        "copy kind=expand x0=[3,1] y0=[2,3,5]",
        "copy kind=expand x0=[] y0=[4] x0_type=bool y0_type=bool",
        "copy kind=tile x0=[2,3] y0=[4,9]",
    ]);
}

#[test]
fn softmaxes_along_any_axis() {
    check(&[
        "softmax x=[1] axis=0",
        "softmax x=[5,1] axis=1",
        "softmax x=[3,7] axis=1",
        "softmax x=[2,3,129] axis=2 scale=0.125",
        "softmax x=[3,64] axis=1 scale=-2.0",
        "softmax x=[3,37] axis=1 log=1",
        "softmax x=[3,37,5] axis=1",
        "softmax x=[2,3,150] axis=0 log=1",
        "softmax x=[2,3,5,33] axis=3 mask=[2,1,1,33] scale=0.5",
        "softmax x=[2,3,5,33] axis=3 mask=[5,33]",
        "softmax x=[2,3,5,33] axis=3 mask=[3,5,1] log=1",
        "softmax x=[2,3,5,7] axis=1 mask=[3,1,7]",
        "softmax x=[3,41,6] axis=1 scale=0.5",
        "softmax x=[2,9,16] axis=1",
        "softmax x=[5,7,2] axis=0 mask=[7,2]",
    ]);
}

#[test]
fn layer_norms_in_rows_and_columns() {
    check(&[
        "layer_norm x=[3,1] y=[3,1] axis=1 epsilon=1e-5",
        "layer_norm x=[3,37] y=[3,37] axis=1 epsilon=1e-5",
        "layer_norm x=[2,5,64] y=[2,5,64] axis=2 epsilon=0.001 scale=[64] bias=[64]",
        "layer_norm x=[2,5,9] y=[2,5,9] axis=1 epsilon=1e-5 scale=[5,9]",
        "layer_norm x=[4,130] y=[4,130] axis=1 epsilon=1e-5 rms=1 scale=[130]",
        "layer_norm x=[2,7,48] x_layout=columns16 y=[2,7,48] y_layout=columns16 axis=2 epsilon=1e-5 scale=[48] bias=[48]",
        "layer_norm x=[9,37] x_layout=columns16 y=[9,37] y_layout=columns16 axis=1 epsilon=1e-5 bias=[37]",
        "layer_norm x=[9,37] x_layout=columns16 y=[9,37] axis=1 epsilon=1e-5 rms=1",
        "layer_norm x=[2,9,37] y=[2,9,37] y_layout=columns16 axis=2 epsilon=1e-5 scale=[37]",
    ]);
}

#[test]
fn reductions_of_every_kind() {
    check(&[
        "reduce kind=sum x=[7] y=[] axes=[0]",
        "reduce kind=mean x=[3,37] y=[3,1] axes=[1]",
        "reduce kind=max x=[3,37] y=[37] axes=[0]",
        "reduce kind=min x=[3,5,129] y=[3,5] axes=[2]",
        "reduce kind=sum x=[3,5,7,9] y=[3,7] axes=[1,3]",
        "reduce kind=mean x=[3,5,7,9] y=[1,5,1,9] axes=[0,2]",
        "reduce kind=prod x=[3,20] y=[3] axes=[1]",
        "reduce kind=l1 x=[3,20] y=[3] axes=[1]",
        "reduce kind=l2 x=[20,300] y=[300] axes=[0]",
        "reduce kind=max x=[3,19,77] y=[3,77] axes=[1]",
        "reduce kind=min x=[9,3,5,19] y=[3,19] axes=[0,2]",
        "reduce kind=mean x=[2,11,1500] y=[1,1,1500] axes=[0,1]",
        "reduce kind=sum_square x=[3,21] y=[1,1] axes=[0,1]",
        "reduce kind=log_sum x=[3,21] y=[3] axes=[1]",
        "reduce kind=mean x=[19,300] y=[19,1] axes=[1]",
        "reduce kind=max x=[5,3,7,45] y=[3] axes=[0,2,3]",
        "reduce kind=min x=[5,3,7,45] y=[5,7] axes=[1,3]",
        "reduce kind=prod x=[13,35] y=[13] axes=[1]",
        "reduce kind=l2 x=[9,150] y=[9] axes=[1]",
        "reduce kind=sum x=[70,200] y=[200] axes=[0]",
        "reduce kind=sum x=[5,40,64] y=[5,64] axes=[1]",
        "reduce kind=prod x=[6,5,3,130] y=[5,130] axes=[0,2]",
        "reduce kind=sum x=[3,21] y=[3] axes=[1] x_type=i64 y_type=i64",
        "reduce kind=max x=[3,21] y=[21] axes=[0] x_type=i32 y_type=i32",
        "reduce kind=mean x=[2,37,5,7] x_layout=channels16h1 y=[2,37,1,1] axes=[2,3]",
        "reduce kind=mean x=[1,37,5,7] x_layout=channels16h0 y=[1,37] axes=[2,3]",
        "reduce kind=max x=[2,32,5,7] x_layout=channels16h0 y=[2,32,1,1] y_layout=channels16h0 axes=[2,3]",
        "reduce kind=l2 x=[2,20,5,7] x_layout=channels16h0 y=[2,20,1,1] y_layout=channels16h1 axes=[2,3]",
    ]);
}

#[test]
fn embeddings_and_gathers() {
    check(&[
        "embedding table=[11,7] indices=[2,3] indices_type=i64",
        "embedding table=[11,32] indices=[2,9] bag=sum indices_type=i64",
        "embedding table=[11,75] indices=[2,3,9] bag=mean indices_type=i32",
        "embedding table=[1,64] indices=[] indices_type=i64",
        "gather x=[5,7,3] indices=[2,4] axis=1 indices_type=i64",
        "gather x=[5,7] indices=[] axis=1 indices_type=i64 x_type=i64",
        "gather x=[5,7] indices=[2,4] axis=1 indices_type=i64",
        "gather x=[3,5,130] indices=[40] axis=2 indices_type=i32 x_type=i64",
        "gather x=[3000,130] indices=[50] axis=0 indices_type=i64",
        "gather x=[5,7] indices=[3] axis=0 indices_type=i32 x_type=bool",
    ]);
}

#[test]
fn poolings_of_rows_and_planes() {
    check(&[
        "pool kind=max kernel_shape=[3] strides=[2] dilations=[1] pads=[1,1] x=[2,3,9] y=[2,3,5]",
        "pool kind=average kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,3,7,8] y=[1,3,3,4]",
        "pool kind=average kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] count_include_pad=1 x=[1,3,7,8] y=[1,3,4,4]",
        "pool kind=average kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] count_include_pad=1 x=[1,3,8,8] y=[1,3,4,4]",
        "pool kind=max kernel_shape=[2,3] strides=[1,1] dilations=[2,3] pads=[1,2,0,3] x=[1,2,7,9] y=[1,2,6,8]",
        "pool kind=max kernel_shape=[2,2,2] strides=[1,2,2] dilations=[1,1,1] pads=[0,0,0,0,0,0] x=[1,2,4,5,6] y=[1,2,3,2,3]",
        "pool kind=max kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] x=[2,20,9,11] x_layout=channels16h1 y=[2,20,5,6] y_layout=channels16h0",
        "pool kind=max kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,32,8,6] x_layout=channels16h0 y=[1,32,4,3] y_layout=channels16h1",
        "pool kind=average kernel_shape=[3,3] strides=[1,1] dilations=[1,1] pads=[1,1,1,1] count_include_pad=1 x=[1,37,5,7] x_layout=channels16h2 y=[1,37,5,7] y_layout=channels16h1",
        "pool kind=average kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,16,8,8] x_layout=channels16h0 y=[1,16,4,4] y_layout=channels16h0",
        "pool kind=max kernel_shape=[5,1] strides=[1,1] dilations=[1,1] pads=[2,0,2,0] x=[1,16,9,3] x_layout=channels16h0 y=[1,16,9,3] y_layout=channels16h0",
        "pool kind=max kernel_shape=[2,3] strides=[1,1] dilations=[2,2] pads=[1,2,0,1] x=[1,16,9,8] x_layout=channels16h0 y=[1,16,8,7] y_layout=channels16h0",
    ]);
}

#[test]
fn recurrent_layers() {
    check(&[
        "lstm t=1 n=1 i=3 h=5 direction=forward outputs=[1,1,1]",
        "lstm t=7 n=1 i=20 h=33 direction=forward w=const bias=1 outputs=[1,0,0]",
        "lstm t=9 n=3 i=20 h=33 direction=bidirectional w=const bias=1 h0=1 c0=1 outputs=[1,1,1]",
        "lstm t=9 n=5 i=17 h=32 direction=reverse w=const bias=1 lens=1 c0=1 outputs=[1,1,1]",
        "lstm t=40 n=2 i=40 h=48 direction=bidirectional w=const lens=1 outputs=[0,1,1]",
        "gru t=7 n=1 i=20 h=33 direction=forward w=const bias=1 outputs=[1,1]",
        "gru t=11 n=3 i=20 h=48 direction=bidirectional w=const bias=1 linear_before_reset=1 h0=1 outputs=[1,1]",
        "gru t=5 n=3 i=20 h=17 direction=reverse bias=1 lens=1 linear_before_reset=1 outputs=[1,0]",
        "gru t=9 n=3 i=20 h=40 direction=bidirectional w=const bias=1 lens=1 h0=1 outputs=[1,1]",
    ]);
}

#[test]
fn resizes_of_rows_and_planes() {
    check(&[
        "resize mode=nearest rounding=floor transform=asymmetric x=[1,3,5,7] y=[1,3,10,14] scale_h=2.0 scale_w=2.0",
        "resize mode=nearest rounding=round_prefer_floor transform=half_pixel x=[2,3,8,9] y=[2,3,5,4]",
        "resize mode=nearest rounding=floor transform=asymmetric x=[2,2,6,26] y=[2,2,12,52]",
        "resize mode=nearest rounding=round_prefer_ceil transform=half_pixel x=[1,3,9,37] y=[1,3,4,61]",
        "resize mode=nearest rounding=ceil transform=align_corners x=[2,1,5,3] y=[2,1,5,50]",
        "resize mode=nearest rounding=floor transform=asymmetric x=[3,40] y=[3,40]",
        "resize mode=nearest rounding=floor transform=half_pixel x=[19] y=[23]",
        "resize mode=linear transform=half_pixel x=[1,3,5,7] y=[1,3,8,20]",
        "resize mode=linear transform=align_corners x=[3,7] y=[5,1]",
        "resize mode=linear transform=pytorch_half_pixel x=[7] y=[4]",
        "resize mode=nearest rounding=ceil transform=asymmetric x=[1,20,5,7] x_layout=channels16h0 y=[1,20,10,14] y_layout=channels16h1",
        "resize mode=linear transform=half_pixel x=[2,20,5,7] x_layout=channels16h1 y=[2,20,10,11] y_layout=channels16h0",
    ]);
}

#[test]
fn attentions_of_any_order() {
    check(&[
        "attention q=[1,1,1,1] k=[1,1,1,1] v=[1,1,1,1] scale=1.0",
        "attention q=[2,3,7,9] k=[2,3,11,9] v=[2,3,11,5] scale=0.5",
        "attention q=[2,3,50,16] k=[2,3,50,16] v=[2,3,50,16] scale=0.25 causal=1",
        "attention q=[2,29,4,20] k=[2,33,4,20] v=[2,33,4,32] q_order=bshd k_order=bshd v_order=bshd y_order=bshd scale=0.25 mask=[2,1,1,33]",
        "attention q=[1,4,13,8] k=[1,2,13,8] v=[1,2,13,8] scale=0.3 mask=[13,13] causal=1",
        "attention q=[1,6,17,64] k=[1,40,6,64] v=[1,6,40,64] k_order=bshd y_order=bshd scale=0.125 mask=[1,6,17,1]",
        "attention q=[19,2,9,16] k=[19,2,9,16] v=[19,2,9,16] q_order=sbhd k_order=sbhd v_order=sbhd y_order=sbhd q_heads=[0,3] k_heads=[3,3] v_heads=[6,3] scale=0.25",
        "attention q=[2,23,7,16] k=[2,9,40,16] v=[2,7,40,24] q_order=bshd q_heads=[2,4] k_heads=[5,2] v_heads=[0,2] y_order=bshd scale=-0.5 mask=[4,1,40]",
        "attention q=[1,2,130,64] k=[1,2,150,64] v=[1,2,150,64] scale=0.125 mask=[1,1,130,150]",
        "attention q=[1,2,9,16] k=[1,2,5,16] v=[1,2,5,16] scale=0.25 causal=1",
    ]);
}
