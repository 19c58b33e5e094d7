use super::*;
use crate::graph::verify;
use proptest::prelude::*;
use std::collections::HashMap;

const SAMPLE: &str = r#"graph sample
input %x: f32[N,3,4,4]
input %c: bool[]
$w: f32[2,3,1,1] = [1.0,-2.5,3e-7,0.0,inf,6.0]
%a: f32[N,2,4,4] channels16h1 = conv2d(%x, $w) epilogue="bias+relu" pads=[0,0,0,0] ratio=0.5 @/conv1
%"odd name": f32[N,2,4,4], _, %seq: seq(f32[?]) = X.Odd(%a) empty=strings[] text="a \"b\"\n" value=i64[2]:[1,-2] @"q r"
%b: f32["4",2,"a b",4] = If(%c) then_branch={
  graph then
  capture %inner: f32[N,2,4,4] = %"odd name"
  $one: f32[] = [1.0]
  %sum = Add(%inner, $one)
  output %sum as "s"
} else_branch={
  capture %"odd name" = %"odd name"
  output %"odd name"
}
output %b as "logits"
output %b as "again"
"#;

#[test]
fn the_sample_is_its_own_text() {
    let graph = parse(SAMPLE).unwrap();
    assert_eq!(graph.to_string(), SAMPLE);
    verify(&Graph { values: without_layouts(&graph), ..graph }).unwrap();
}

/// The sample's text shows a layout on a value that a body captures, which a sound graph has not.
fn without_layouts(graph: &Graph) -> Vec<Value> {
    graph.values.iter().map(|value| Value { layout: Layout::Rows, ..value.clone() }).collect()
}

#[test]
fn large_constants_go_by_digest() {
    let graph = parse("$w: f32[5,5] = fill(7)\noutput $w").unwrap();
    let text = graph.to_string();
    let tensor = graph.values[0].constant.clone().unwrap();
    assert_eq!(text, format!("$w: f32[5,5] = #{}\noutput $w\n", digest(&tensor)));
    assert!(parse(&text).unwrap_err().reason.starts_with("no constant"));
    assert_eq!(parse_with(&text, &|_| Some(tensor.clone())).unwrap(), graph);
    assert!(tensor.values::<f32>().unwrap().iter().all(|x| x.abs() <= 1.0));
}

#[test]
fn nan_keeps_its_bits() {
    let graph = parse("$w: f32[1] = hex \"0100c07f\"\noutput $w").unwrap();
    assert_eq!(graph.to_string(), "$w: f32[1] = hex \"0100c07f\"\noutput $w\n");
}

#[test]
fn wrong_texts_are_refused_with_their_line() {
    for (text, line, reason) in [
        ("output %x", 1, "no value 'x'"),
        ("input %x\ninput %x", 2, "defined twice"),
        ("input %x\n%y = Neg(%y)", 2, "no value 'y'"),
        ("input %x\n\n%y = Neg(%x", 3, "expected ')'"),
        ("capture %x = %y", 1, "only bodies"),
        ("input %x: f33[2]", 1, "unknown element type"),
        ("$w: f32[2] = [1]", 1, "do not fill"),
        ("$w: u8[1] = [300]", 1, "not u8"),
        ("$w: f32[99999999999999999999] = fill(1)", 1, "all extents"),
        ("$w: f32[9999999999] = fill(1)", 1, "too many elements"),
        ("input %x\n%y = A(%x) k=1 k=2", 2, "twice"),
        ("input %x: \"abc", 1, "does not end"),
        ("}", 1, "a statement"),
    ] {
        let found = parse(text).unwrap_err();
        assert!(found.line == line && found.reason.contains(reason), "{text}: {found}");
    }
    assert!(parse(&"%a = A() b={".repeat(100)).is_err());
}

#[test]
fn equal_names_are_told_apart() {
    let mut graph = parse("input %x: f32[2]\n%y = Neg(%x)\noutput %y").unwrap();
    graph.values[1].name = "x".to_owned();
    assert_eq!(graph.to_string(), "input %x: f32[2]\n%x~1 = Neg(%x)\noutput %x~1 as \"y\"\n");
}

fn dim() -> impl Strategy<Value = Dim> {
    prop_oneof![(0usize..9).prop_map(Dim::Fixed), "[ -~]{1,4}".prop_map(|name| Dim::named(&name))]
}

fn tensor() -> impl Strategy<Value = Tensor> {
    prop_oneof![
        prop::collection::vec(-1e9f32..1e9, 0..20).prop_map(|v| Tensor::new(vec![v.len()], v)),
        prop::collection::vec(any::<i64>(), 1..5).prop_map(|v| Tensor::new(vec![1, v.len()], v)),
        prop::collection::vec(any::<u16>().prop_map(half::f16::from_bits), 1..5).prop_map(|v| Tensor::new(vec![v.len()], v)),
        prop::collection::vec(any::<bool>(), 1..3).prop_map(|v| Tensor::bools(vec![v.len()], v)),
        prop::collection::vec(".{0,3}", 1..3).prop_map(|v| Tensor::strings(vec![v.len()], v)),
        any::<f64>().prop_map(Tensor::scalar),
    ]
}

fn ty() -> impl Strategy<Value = Type> {
    let tensor = prop_oneof![
        Just(Type::Unknown),
        Just(Type::Tensor { dtype: DType::Bf16, shape: None }),
        prop::collection::vec(dim(), 0..4).prop_map(|shape| Type::Tensor { dtype: DType::F32, shape: Some(shape) }),
    ];
    tensor.prop_recursive(2, 3, 1, |inner| {
        prop_oneof![inner.clone().prop_map(|of| Type::Sequence(Box::new(of))), inner.prop_map(|of| Type::Optional(Box::new(of)))]
    })
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        any::<i64>().prop_map(Attribute::Int),
        (-1e30f32..1e30).prop_map(Attribute::Float),
        ".{0,5}".prop_map(Attribute::String),
        prop::collection::vec(any::<i64>(), 0..3).prop_map(Attribute::Ints),
        prop::collection::vec(-1e3f32..1e3, 0..3).prop_map(Attribute::Floats),
        prop::collection::vec(".{0,5}", 0..3).prop_map(Attribute::Strings),
        tensor().prop_map(Attribute::Tensor),
    ]
}

#[derive(Clone, Debug)]
struct NodeSeed {
    name: String,
    op: String,
    inputs: Vec<Option<prop::sample::Index>>,
    outputs: Vec<Option<(String, Type)>>,
    attributes: Vec<(String, Attribute)>,
    body: bool,
}

fn node() -> impl Strategy<Value = NodeSeed> {
    let inputs = prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 0..4);
    let outputs = prop::collection::vec(prop::option::of((".{0,4}", ty())), 0..3);
    let attributes = prop::collection::vec(("[a-z_ ]{1,3}", attribute()), 0..3);
    (".{0,4}", "[A-Za-z. ]{1,4}", inputs, outputs, attributes, any::<bool>())
        .prop_map(|(name, op, inputs, outputs, attributes, body)| NodeSeed { name, op, inputs, outputs, attributes, body })
}

/// A graph in the order in which the text form mentions its values, so that equality can be asked for.
fn build(name: String, inputs: Vec<Type>, constants: Vec<Tensor>, nodes: Vec<NodeSeed>) -> Graph {
    let mut graph = Graph { name, ..Graph::default() };
    for (i, ty) in inputs.into_iter().enumerate() {
        let id = graph.add_value(Value { ty, ..Value::named(&format!("in {i}")) });
        graph.inputs.push(id);
    }
    for (i, tensor) in constants.into_iter().enumerate() {
        let id = graph.add_value(Value::constant(&format!("c{i}"), tensor));
        graph.nodes.push(Node::new("First", vec![Some(id)], vec![]));
    }
    for (index, seed) in nodes.into_iter().enumerate() {
        let before = graph.values.len();
        let pick = |i: prop::sample::Index| (before > 0).then(|| ValueId(i.index(before) as u32));
        let mut node = Node::new(&seed.op, seed.inputs.into_iter().map(|i| i.and_then(pick)).collect(), vec![]);
        node.name = seed.name;
        for (name, value) in seed.attributes {
            node.attributes.set(&name, value);
        }
        if seed.body && before > 0 {
            let outer = ValueId(before as u32 - 1);
            let mut body = Graph { name: "b".to_owned(), ..Graph::default() };
            let inner = body.add_value(Value::named("seen"));
            body.captures.push(crate::graph::Capture { outer, inner });
            body.outputs.push(inner);
            body.output_names.push("o".to_owned());
            node.bodies.push(("body".to_owned(), body));
        }
        for (i, output) in seed.outputs.into_iter().enumerate() {
            let value = output.map(|(name, ty)| Value { ty, ..Value::named(&format!("{name} {index}.{i}")) });
            node.outputs.push(value.map(|value| graph.add_value(value)));
        }
        while matches!(node.outputs.last(), Some(None)) {
            node.outputs.pop();
        }
        graph.nodes.push(node);
    }
    graph
}

proptest! {
    #[test]
    fn any_graph_parses_back(
        name in ".{0,4}",
        inputs in prop::collection::vec(ty(), 0..3),
        constants in prop::collection::vec(tensor(), 0..3),
        nodes in prop::collection::vec(node(), 0..6),
    ) {
        let graph = build(name, inputs, constants, nodes);
        let mut known = HashMap::new();
        let attributes = graph.nodes.iter().flat_map(|node| node.attributes.iter()).filter_map(|(_, value)| match value {
            Attribute::Tensor(tensor) => Some(tensor),
            _ => None,
        });
        for tensor in graph.values.iter().filter_map(|value| value.constant.as_ref()).chain(attributes) {
            known.insert(digest(tensor), tensor.clone());
        }
        let text = graph.to_string();
        let back = parse_with(&text, &|digest| known.get(digest).cloned()).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&back, &graph, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "[ \n%$a-c0-9\\[\\](){}:=,#\"@_]{0,60}") {
        let _ = parse(&text);
    }
}
