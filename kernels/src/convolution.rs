//! What convolutions of every kind have in common, transposed or not: the parameters of their tasks, read and checked in one place.

use crate::epilogue::Epilogue;
use crate::gemm::{push_epilogue, refuse};
use crate::layout::BLOCK;
use crate::{BuildError, Facts, Layout, OperandFacts, OperandSpec, Signature, Task};
use schema::DType;

/// The greatest extent of anything: far above use, low enough for products of two to fit.
pub const EXTENT_MAX: usize = 1 << 30;

/// The parameters of a task, each sensible by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    /// Top, left, bottom, right.
    pub pads: [usize; 4],
    pub dilations: [usize; 2],
    pub groups: usize,
    pub input: Layout,
    pub output: Layout,
    pub weight_constant: bool,
    pub epilogue: Epilogue,
}

impl Parameters {
    /// Reads a task whose groups and output channels are its parameters `groups` (default 1) and `o`.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn of(task: &Task) -> Result<Self, BuildError> {
        let groups = if task.get("groups").is_some() { task.int("groups") } else { 1 };
        Self::read(task, task.int("o"), groups)
    }

    /// Reads a task whose groups and output channels are known otherwise.
    ///
    /// # Errors
    /// [`BuildError::Task`] when a parameter is missing or makes no sense.
    pub fn read(task: &Task, o: usize, groups: usize) -> Result<Self, BuildError> {
        let [n, c, h, w] = ["n", "c", "h", "w"].map(|name| task.int(name));
        let kernel = ["kh", "kw"].map(|name| task.int(name));
        let extents =
            [("n", n), ("c", c), ("h", h), ("w", w), ("o", o), ("kh", kernel[0]), ("kw", kernel[1]), ("groups", groups)];
        for (name, extent) in extents {
            if !(1..=EXTENT_MAX).contains(&extent) {
                return Err(refuse(task, format!("parameter '{name}' is {extent}, and not from 1 to 2³⁰")));
            }
        }
        let strides = list(task, "strides", [1; 2])?;
        let dilations = list(task, "dilations", [1; 2])?;
        let pads = list(task, "pads", [0; 4])?;
        if strides.contains(&0) || dilations.contains(&0) {
            return Err(refuse(task, "strides and dilations must be at least 1"));
        }
        if !c.is_multiple_of(groups) || !o.is_multiple_of(groups) {
            return Err(refuse(task, format!("{groups} groups do not divide {c} and {o} channels")));
        }
        let weight_constant = match task.word("weight") {
            "" | "const" => true,
            "dynamic" => false,
            other => return Err(refuse(task, format!("'weight' is const or dynamic and not '{other}'"))),
        };
        let epilogue = match task.word("epilogue") {
            "" => Epilogue::default(),
            text => Epilogue::parse(text).ok_or_else(|| refuse(task, "'epilogue' is not one"))?,
        };
        let (input, output) = (layout(task, "in")?, layout(task, "out")?);
        Ok(Parameters { n, c, h, w, o, kernel, strides, pads, dilations, groups, input, output, weight_constant, epilogue })
    }
}

/// The elements of an image tensor in a layout, if they can be counted.
pub fn elements(shape: [usize; 4], layout: Layout) -> Option<usize> {
    let [n, c, h, w] = shape;
    let (c, border) = match layout {
        Layout::Channels { halo } => (c.checked_next_multiple_of(BLOCK)?, halo.checked_mul(2)?),
        _ => (c, 0),
    };
    n.checked_mul(c)?.checked_mul(h.checked_add(border)?)?.checked_mul(w.checked_add(border)?)
}

/// A list of whole numbers, or its default when absent.
///
/// # Errors
/// [`BuildError::Task`] when it has another length, or a number beyond [`EXTENT_MAX`].
pub fn list<const N: usize>(task: &Task, name: &str, default: [usize; N]) -> Result<[usize; N], BuildError> {
    if task.get(name).is_none() {
        return Ok(default);
    }
    let values: [usize; N] =
        task.ints(name).try_into().map_err(|_| refuse(task, format!("parameter '{name}' needs {N} numbers")))?;
    match values.iter().find(|&&value| value > EXTENT_MAX) {
        Some(value) => Err(refuse(task, format!("parameter '{name}' has {value}, which is beyond 2³⁰"))),
        None => Ok(values),
    }
}

/// A layout of images, rows when absent.
fn layout(task: &Task, name: &str) -> Result<Layout, BuildError> {
    match task.word(name) {
        "" => Ok(Layout::Rows),
        word => match Layout::parse(word) {
            Some(layout @ (Layout::Rows | Layout::Channels { .. })) => Ok(layout),
            _ => Err(refuse(task, format!("layout '{word}' of '{name}' is neither rows nor channels16hH"))),
        },
    }
}

/// What goes in and out: x, weight, what the epilogue needs; y.
pub fn signature(x: OperandSpec, weight: OperandSpec, y: OperandSpec, epilogue: &Epilogue) -> Signature {
    let (channels, constant) = (y.shape[1], weight.constant);
    let mut inputs = vec![x, weight];
    push_epilogue(&mut inputs, epilogue, channels, constant, &y);
    Signature { inputs, outputs: vec![y] }
}

/// What a node of a graph says of x, weight and y.
pub struct Node<'a> {
    facts: &'a Facts<'a>,
    pub x: &'a OperandFacts,
    pub weight: &'a OperandFacts,
    pub y: &'a OperandFacts,
}

impl<'a> Node<'a> {
    /// Of a node whose operands are all f32.
    ///
    /// # Errors
    /// [`BuildError::Task`], in the name of `task`, when an operand is missing or of another type.
    pub fn of(facts: &'a Facts<'_>, task: &Task) -> Result<Self, BuildError> {
        let input = |i: usize| facts.inputs.get(i).and_then(Option::as_ref);
        let (Some(x), Some(weight), Some(y)) = (input(0), input(1), facts.outputs.first().and_then(Option::as_ref)) else {
            return Err(refuse(task, "x, weight or y is missing"));
        };
        match [x, weight, y].into_iter().find(|operand| operand.dtype != DType::F32) {
            Some(operand) => Err(refuse(task, format!("operands of type {} have no kernel", operand.dtype))),
            None => Ok(Node { facts, x, weight, y }),
        }
    }

    /// The attribute `groups`, 1 when absent and 0 when it is none.
    pub fn groups(&self) -> usize {
        usize::try_from(self.facts.attributes.int("groups").unwrap_or(1)).unwrap_or(0)
    }

    /// Adds what every kind has to a task: extents, layouts, and the attributes.
    pub fn task(&self, bare: Task, [n, c, h, w]: [usize; 4], [kh, kw]: [usize; 2]) -> Task {
        let extents = [("n", n), ("c", c), ("h", h), ("w", w), ("kh", kh), ("kw", kw)];
        let mut task = extents.into_iter().fold(bare, |task, (name, extent)| task.with_int(name, extent));
        let attributes = self.facts.attributes;
        for (name, default) in [("strides", &[1, 1][..]), ("dilations", &[1, 1]), ("pads", &[0, 0, 0, 0])] {
            // A negative value becomes one that no check accepts.
            let values = attributes.ints(name).unwrap_or(default);
            let values: Vec<usize> = values.iter().map(|&value| usize::try_from(value).unwrap_or(EXTENT_MAX + 1)).collect();
            task = task.with_ints(name, &values);
        }
        task.with_word("epilogue", attributes.string("epilogue").unwrap_or("none"))
            .with_word("in", self.x.layout)
            .with_word("out", self.y.layout)
            .with_word("weight", if self.weight.constant { "const" } else { "dynamic" })
    }

    /// Whether the weight has the shape that the task asks for.
    ///
    /// # Errors
    /// [`BuildError::Task`] when it has another.
    pub fn check_weight(&self, task: &Task, expected: &[usize]) -> Result<(), BuildError> {
        if self.weight.shape == expected {
            return Ok(());
        }
        Err(refuse(task, format!("the weight is {:?} and not {expected:?}", self.weight.shape)))
    }
}
