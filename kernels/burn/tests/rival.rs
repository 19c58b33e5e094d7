//! Burn's ways to our tasks give what the plain references give.

use burn_ops::Rival;
use kernels::{Task, Tensor};

/// Numbers that look random and are the same everywhere.
fn operands(task: &Task) -> Vec<Tensor> {
    let operator = kernels::operator(task.operator()).unwrap();
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let specs = (operator.signature)(task).unwrap().inputs;
    let tensor = |spec: kernels::OperandSpec| {
        let count: usize = spec.shape.iter().product();
        match spec.fill {
            kernels::Fill::Index(below) => {
                Tensor::new(spec.shape, (0..count).map(|_| (next() as usize % below) as i64).collect())
            }
            _ => Tensor::new(spec.shape, (0..count).map(|_| next() as f32 / (1 << 23) as f32 - 1.0).collect()),
        }
    };
    specs.into_iter().map(tensor).collect()
}

#[test]
fn rivals_compute_what_the_tasks_say() {
    for text in [
        "gemm m=5 k=7 n=6 epilogue=bias+relu",
        "gemm m=5 k=7 n=6 batch_a=[3] batch_b=[3] trans_b=1 alpha=0.5",
        "conv2d n=2 c=4 h=9 w=8 o=6 kh=3 kw=3 pads=[1,1,1,1] strides=[2,2] groups=2 epilogue=bias+residual",
        "conv2d n=1 c=4 h=9 w=8 o=6 kh=3 kw=3 pads=[2,2,2,2] dilations=[2,2] epilogue=bias+clip(0,6)",
        "depthwise n=1 c=5 h=9 w=8 kh=3 kw=3 pads=[1,1,1,1] epilogue=bias",
        "conv_transpose2d n=1 c=4 h=5 w=6 o=3 kh=2 kw=2 strides=[2,2] epilogue=bias",
        "attention q=[1,2,7,8] k=[1,2,9,8] v=[1,2,9,4] scale=0.5",
        "elementwise expr=gelu(add(mul(a,0.5),b)) a=[2,3,5] b=[5] y=[2,3,5]",
        "elementwise expr=mul(a,sigmoid(sub(1.0,b))) a=[2,3] b=[2,3] y=[2,3]",
        "softmax x=[3,4,17] axis=1",
        "layer_norm x=[3,24] y=[3,24] axis=1 epsilon=1e-5 scale=[24] bias=[24]",
        "reduce kind=mean x=[3,5,7] y=[3,1,7] axes=[1]",
        "reduce kind=max x=[3,5,7] y=[3] axes=[1,2]",
        "pool kind=max kernel_shape=[3,3] strides=[2,2] dilations=[1,1] pads=[1,1,1,1] x=[1,3,9,9] y=[1,3,5,5]",
        "pool kind=average kernel_shape=[2,2] strides=[2,2] dilations=[1,1] pads=[0,0,0,0] x=[1,3,8,8] y=[1,3,4,4]",
        "transpose x=[2,3,5] perm=[2,0,1]",
        "copy kind=join axis=1 x0=[2,3,5] x1=[2,4,5] y0=[2,7,5]",
        "copy kind=slice x0=[9,10] starts=[2,1] steps=[3,2] y0=[3,4]",
        "copy kind=pad x0=[3,4] pads=[1,2,0,3] value=0.5 y0=[4,9]",
        "resize mode=linear transform=half_pixel x=[1,2,5,7] y=[1,2,10,14]",
        "resize mode=nearest rounding=floor transform=asymmetric x=[1,2,5,7] y=[1,2,10,14]",
        "gather x=[5,7,3] indices=[4] axis=1 indices_type=i64",
        "embedding table=[11,7] indices=[2,3] indices_type=i64",
        "embedding table=[11,7] indices=[2,3] bag=sum indices_type=i64",
        "lstm t=4 n=2 i=3 h=5 direction=bidirectional bias=1 outputs=[1,0,0]",
        "gru t=4 n=2 i=3 h=5 direction=forward bias=1 linear_before_reset=1 outputs=[1,0]",
        "gru t=4 n=1 i=3 h=5 direction=reverse outputs=[1,0]",
    ] {
        let task = Task::parse(text).unwrap();
        let operands = operands(&task);
        let rival = Rival::of(&task, &operands).unwrap_or_else(|| panic!("'{text}' has a rival"));
        let references: Vec<Option<&Tensor>> = operands.iter().map(|x| (x.shape() != [0]).then_some(x)).collect();
        let expected = (kernels::operator(task.operator()).unwrap().reference)(&task, &references).unwrap();
        let (found, expected) = (rival.result(), expected[0].values::<f32>().unwrap());
        assert_eq!(found.len(), expected.len(), "{text}");
        assert_eq!(rival.run(), expected.len(), "{text}");
        for (i, (&a, &b)) in found.iter().zip(expected.iter()).enumerate() {
            assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "'{text}' at {i}: Burn has {a}, the reference {b}");
        }
    }
}
