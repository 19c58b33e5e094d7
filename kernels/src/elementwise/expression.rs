//! The language of elementwise tasks: `mul(a,sigmoid(add(a,b)))`.
//!
//! An expression is an input `a` … `p`, a number, or a call `name(argument,…)`; see [`FUNCTIONS`] for the names. `cast(x,i64)` takes
//! the name of a type. No blanks. Types are those of the inputs; a number takes the type of its siblings.

use crate::epilogue::Activation;
use schema::DType;
use std::fmt;

/// The most inputs an expression has: one letter each.
pub const INPUTS_MAX: usize = 16;
/// The deepest nesting that is read.
const DEPTH_MAX: usize = 64;

/// A function of elements.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    Add,
    Sub,
    Mul,
    /// Whole numbers are cut towards zero; dividing them by 0 gives 0.
    Div,
    /// The remainder with the sign of the divisor.
    Mod,
    /// The remainder with the sign of the dividend.
    Fmod,
    Neg,
    Abs,
    Sign,
    Square,
    Min,
    Max,
    Sqrt,
    Rsqrt,
    Reciprocal,
    Exp,
    Log,
    Pow,
    Floor,
    Ceil,
    /// Ties to even.
    Round,
    Sin,
    Cos,
    Erf,
    Softplus,
    /// `elu(x,alpha)`
    Elu,
    Relu,
    /// `leaky_relu(x,alpha)`; alpha may be any expression, so this is `PRelu` too.
    LeakyRelu,
    /// `clip(x,lo,hi)`
    Clip,
    Sigmoid,
    Tanh,
    Silu,
    /// `hard_sigmoid(x,alpha,beta)`
    HardSigmoid,
    HardSwish,
    Gelu,
    GeluTanh,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    And,
    Or,
    Xor,
    Not,
    /// `where(condition,x,y)`
    Where,
}

/// What a function takes and gives.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// f32 → f32
    Float,
    /// One type throughout: f32, i64 or i32.
    Arithmetic,
    /// Two of one type → bool
    Compare,
    /// bool → bool
    Logic,
    /// bool and two of one type → that type
    Choose,
}

/// Every function: name, number of arguments, kind.
pub static FUNCTIONS: &[(&str, Function, usize, Kind)] = &[
    ("add", Function::Add, 2, Kind::Arithmetic),
    ("sub", Function::Sub, 2, Kind::Arithmetic),
    ("mul", Function::Mul, 2, Kind::Arithmetic),
    ("div", Function::Div, 2, Kind::Arithmetic),
    ("mod", Function::Mod, 2, Kind::Arithmetic),
    ("fmod", Function::Fmod, 2, Kind::Arithmetic),
    ("neg", Function::Neg, 1, Kind::Arithmetic),
    ("abs", Function::Abs, 1, Kind::Arithmetic),
    ("sign", Function::Sign, 1, Kind::Arithmetic),
    ("square", Function::Square, 1, Kind::Arithmetic),
    ("min", Function::Min, 2, Kind::Arithmetic),
    ("max", Function::Max, 2, Kind::Arithmetic),
    ("sqrt", Function::Sqrt, 1, Kind::Float),
    ("rsqrt", Function::Rsqrt, 1, Kind::Float),
    ("reciprocal", Function::Reciprocal, 1, Kind::Float),
    ("exp", Function::Exp, 1, Kind::Float),
    ("log", Function::Log, 1, Kind::Float),
    ("pow", Function::Pow, 2, Kind::Float),
    ("floor", Function::Floor, 1, Kind::Float),
    ("ceil", Function::Ceil, 1, Kind::Float),
    ("round", Function::Round, 1, Kind::Float),
    ("sin", Function::Sin, 1, Kind::Float),
    ("cos", Function::Cos, 1, Kind::Float),
    ("erf", Function::Erf, 1, Kind::Float),
    ("softplus", Function::Softplus, 1, Kind::Float),
    ("elu", Function::Elu, 2, Kind::Float),
    ("relu", Function::Relu, 1, Kind::Float),
    ("leaky_relu", Function::LeakyRelu, 2, Kind::Float),
    ("clip", Function::Clip, 3, Kind::Arithmetic),
    ("sigmoid", Function::Sigmoid, 1, Kind::Float),
    ("tanh", Function::Tanh, 1, Kind::Float),
    ("silu", Function::Silu, 1, Kind::Float),
    ("hard_sigmoid", Function::HardSigmoid, 3, Kind::Float),
    ("hard_swish", Function::HardSwish, 1, Kind::Float),
    ("gelu", Function::Gelu, 1, Kind::Float),
    ("gelu_tanh", Function::GeluTanh, 1, Kind::Float),
    ("less", Function::Less, 2, Kind::Compare),
    ("less_equal", Function::LessEqual, 2, Kind::Compare),
    ("greater", Function::Greater, 2, Kind::Compare),
    ("greater_equal", Function::GreaterEqual, 2, Kind::Compare),
    ("equal", Function::Equal, 2, Kind::Compare),
    ("not_equal", Function::NotEqual, 2, Kind::Compare),
    ("and", Function::And, 2, Kind::Logic),
    ("or", Function::Or, 2, Kind::Logic),
    ("xor", Function::Xor, 2, Kind::Logic),
    ("not", Function::Not, 1, Kind::Logic),
    ("where", Function::Where, 3, Kind::Choose),
];

/// An expression over inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// Input 0 is written `a`.
    Input(usize),
    Number(f32),
    Call(Function, Vec<Expression>),
    /// `cast(x,i64)`: floats become whole numbers by cutting, anything but 0 becomes true.
    Cast(Box<Expression>, DType),
}

impl Function {
    /// Its line in [`FUNCTIONS`]: name, number of arguments, kind.
    pub fn row(self) -> (&'static str, usize, Kind) {
        let row = FUNCTIONS.iter().find(|row| row.1 == self).expect("every function has a line");
        (row.0, row.2, row.3)
    }

    /// The activation it is, when it takes one argument and no numbers.
    pub fn activation(self) -> Option<Activation> {
        Some(match self {
            Function::Relu => Activation::Relu,
            Function::Sigmoid => Activation::Sigmoid,
            Function::Tanh => Activation::Tanh,
            Function::Silu => Activation::Silu,
            Function::HardSwish => Activation::HardSwish,
            Function::Gelu => Activation::Gelu,
            Function::GeluTanh => Activation::GeluTanh,
            _ => return None,
        })
    }
}

impl Expression {
    /// The expression of that text; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let expression = read(&mut rest, 0)?;
        if rest.is_empty() { Ok(expression) } else { Err(format!("'{rest}' follows a whole expression")) }
    }

    /// The number of inputs it reaches: one more than the greatest it names.
    pub fn inputs(&self) -> usize {
        match self {
            Expression::Input(input) => input + 1,
            Expression::Number(_) => 0,
            Expression::Call(_, arguments) => arguments.iter().map(Expression::inputs).max().unwrap_or(0),
            Expression::Cast(x, _) => x.inputs(),
        }
    }

    /// The number of calls.
    pub fn calls(&self) -> u64 {
        match self {
            Expression::Input(_) | Expression::Number(_) => 0,
            Expression::Call(_, arguments) => 1 + arguments.iter().map(Expression::calls).sum::<u64>(),
            Expression::Cast(x, _) => 1 + x.calls(),
        }
    }

    /// The type of the result for inputs of these types, `None` for a bare number; the error says which call does not fit.
    pub fn dtype(&self, inputs: &[DType]) -> Result<Option<DType>, String> {
        match self {
            Expression::Input(input) => match inputs.get(*input) {
                Some(dtype @ (DType::F32 | DType::I64 | DType::I32 | DType::Bool)) => Ok(Some(*dtype)),
                Some(dtype) => Err(format!("input {self} has the type {dtype}, which has no elementwise kernels")),
                None => Err(format!("there is no input {self}")),
            },
            Expression::Number(_) => Ok(None),
            Expression::Cast(x, to) => {
                x.dtype(inputs)?;
                Ok(Some(*to))
            }
            Expression::Call(function, arguments) => {
                let types = arguments.iter().map(|x| x.dtype(inputs)).collect::<Result<Vec<_>, _>>()?;
                call_type(*function, &types).ok_or_else(|| format!("'{self}' does not fit the types of its arguments"))
            }
        }
    }
}

/// The type of a call on arguments of these types; `None` when they do not fit.
fn call_type(function: Function, types: &[Option<DType>]) -> Option<Option<DType>> {
    let known = |types: &[Option<DType>]| -> Option<Option<DType>> {
        let first = types.iter().flatten().next().copied();
        types.iter().flatten().all(|&other| Some(other) == first).then_some(first)
    };
    let truth = |dtype: Option<DType>| dtype.is_none_or(|dtype| dtype == DType::Bool);
    match function.row().2 {
        Kind::Float => (known(types)?.unwrap_or(DType::F32) == DType::F32).then_some(Some(DType::F32)),
        Kind::Arithmetic => known(types).filter(|dtype| *dtype != Some(DType::Bool)),
        Kind::Compare => known(types).map(|_| Some(DType::Bool)),
        Kind::Logic => types.iter().all(|&dtype| truth(dtype)).then_some(Some(DType::Bool)),
        Kind::Choose => {
            if truth(types[0]) {
                known(&types[1..])
            } else {
                None
            }
        }
    }
}

/// Reads one expression off the front.
fn read(rest: &mut &str, depth: usize) -> Result<Expression, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    let end = rest.find(['(', ')', ',']).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    if !rest.starts_with('(') {
        if let &[letter @ b'a'..=b'p'] = word.as_bytes() {
            return Ok(Expression::Input(usize::from(letter - b'a')));
        }
        return word.parse().map(Expression::Number).map_err(|_| format!("'{word}' is neither an input nor a number"));
    }
    *rest = &rest[1..];
    if word == "cast" {
        let x = read(rest, depth + 1)?;
        let end = rest.find(')').ok_or("a cast is not closed")?;
        let name = rest[..end].strip_prefix(',').ok_or("a cast has no type")?;
        let dtype = DType::parse(name).filter(|d| matches!(d, DType::F32 | DType::I64 | DType::I32 | DType::Bool));
        *rest = &rest[end + 1..];
        return Ok(Expression::Cast(Box::new(x), dtype.ok_or_else(|| format!("cannot cast to '{name}'"))?));
    }
    let row = FUNCTIONS.iter().find(|row| row.0 == word).ok_or_else(|| format!("there is no function '{word}'"))?;
    let mut arguments = Vec::with_capacity(row.2);
    loop {
        arguments.push(read(rest, depth + 1)?);
        let next = rest.chars().next().ok_or_else(|| format!("'{word}(' is not closed"))?;
        *rest = &rest[1..];
        if next == ')' {
            break;
        }
    }
    if arguments.len() == row.2 {
        Ok(Expression::Call(row.1, arguments))
    } else {
        Err(format!("'{word}' takes {} arguments and not {}", row.2, arguments.len()))
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Input(input) => write!(f, "{}", char::from(b'a' + *input as u8)),
            Expression::Number(number) => write!(f, "{number:?}"),
            Expression::Cast(x, dtype) => write!(f, "cast({x},{dtype})"),
            Expression::Call(function, arguments) => {
                write!(f, "{}(", function.row().0)?;
                for (i, argument) in arguments.iter().enumerate() {
                    write!(f, "{}{argument}", if i > 0 { "," } else { "" })?;
                }
                f.write_str(")")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_parse_back() {
        for text in ["mul(a,sigmoid(add(a,b)))", "clip(a,-1.0,6.0)", "where(less(a,0.0),cast(b,f32),c)", "exp(-inf)", "p"] {
            assert_eq!(Expression::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Expression::parse("add(a,1)").unwrap().to_string(), "add(a,1.0)");
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = format!("{}a{}", "neg(".repeat(100), ")".repeat(100));
        for bad in ["", "q", "add(a)", "add(a,b", "wave(a)", "add(a,b))", "cast(a,u7)", "cast(a", "add(,)", "neg()", &deep, "é("]
        {
            assert!(Expression::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn types_follow_the_inputs() {
        let dtype = |text: &str, inputs: &[DType]| Expression::parse(text).unwrap().dtype(inputs);
        assert_eq!(dtype("add(a,1)", &[DType::I64]), Ok(Some(DType::I64)));
        assert_eq!(dtype("less(a,b)", &[DType::F32; 2]), Ok(Some(DType::Bool)));
        assert_eq!(dtype("where(a,b,0)", &[DType::Bool, DType::F32]), Ok(Some(DType::F32)));
        assert!(dtype("exp(a)", &[DType::I64]).is_err());
        assert!(dtype("add(a,b)", &[DType::I64, DType::F32]).is_err());
        assert!(dtype("neg(a)", &[DType::F16]).is_err());
    }
}
