//! Reading the text form.

use super::super::{Capture, Dim, Graph, Node, Type, Value, ValueId};
use kernels::{Attribute, Attributes, Layout, Tensor};
use schema::DType;
use std::collections::HashMap;
use thiserror::Error;

/// How deep bodies and nested types may go.
const DEPTH_MAX: usize = 64;

/// Elements all `fill` constants of a text may have together: 1 GiB of f32.
const FILL_MAX: usize = 1 << 28;

/// A text that is no graph.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct TextError {
    /// From 1.
    pub line: usize,
    pub reason: String,
}

/// Reads a graph whose large constants are all `fill`s.
///
/// # Errors
/// The first place where the text is not of the form, or names a value that is not there.
pub fn parse(text: &str) -> Result<Graph, TextError> {
    parse_with(text, &|_| None)
}

/// Reads a graph; `constants` gives the tensor of a digest.
///
/// # Errors
/// As [`parse`], and for a digest that `constants` does not know or whose tensor has another type or shape.
pub fn parse_with(text: &str, constants: &dyn Fn(&str) -> Option<Tensor>) -> Result<Graph, TextError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, constants, fill_left: FILL_MAX };
    let graph = parser.graph(None, 0)?;
    match parser.peek() {
        Token::End => Ok(graph),
        _ => Err(parser.expected("a statement")),
    }
}

/// Whether a character may stand in a bare word.
pub(super) fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-+/'~".contains(c)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    /// `#` and hexadecimal digits.
    Digest(String),
    Sign(char),
    End,
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, TextError> {
    let mut tokens = Vec::new();
    for (line, mut rest) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        loop {
            rest = rest.trim_start();
            let Some(first) = rest.chars().next() else { break };
            let token = if in_word(first) {
                Token::Word(take(&mut rest, in_word))
            } else if first == '"' {
                Token::Quoted(
                    unquote(&mut rest).ok_or_else(|| error(line, "a quoted text does not end or has an unknown escape"))?,
                )
            } else if first == '#' {
                rest = &rest[1..];
                let digest = take(&mut rest, |c| c.is_ascii_hexdigit());
                if digest.is_empty() {
                    break;
                }
                Token::Digest(digest)
            } else {
                rest = &rest[first.len_utf8()..];
                Token::Sign(first)
            };
            tokens.push((line, token));
        }
    }
    tokens.push((text.lines().count().max(1), Token::End));
    Ok(tokens)
}

fn take(rest: &mut &str, keep: impl Fn(char) -> bool) -> String {
    let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
    let (taken, left) = rest.split_at(end);
    *rest = left;
    taken.to_owned()
}

fn unquote(rest: &mut &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(out);
            }
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                'u' => {
                    chars.next().filter(|&(_, c)| c == '{')?;
                    let code: String = chars.by_ref().map(|(_, c)| c).take_while(|&c| c != '}').collect();
                    out.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                }
                c @ ('"' | '\\') => out.push(c),
                _ => return None,
            },
            c => out.push(c),
        }
    }
    None
}

fn error(line: usize, reason: &str) -> TextError {
    TextError { line, reason: reason.to_owned() }
}

/// The values of a graph by their words.
type Names = HashMap<String, ValueId>;

struct Parser<'a> {
    tokens: Vec<(usize, Token)>,
    at: usize,
    constants: &'a dyn Fn(&str) -> Option<Tensor>,
    fill_left: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn fail(&self, reason: impl Into<String>) -> TextError {
        TextError { line: self.tokens[self.at].0, reason: reason.into() }
    }

    fn expected(&self, what: &str) -> TextError {
        let found = match self.peek() {
            Token::Word(text) => format!("'{text}'"),
            Token::Quoted(_) => "a quoted text".to_owned(),
            Token::Digest(_) => "a digest".to_owned(),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::End => "the end".to_owned(),
        };
        self.fail(format!("expected {what}, found {found}"))
    }

    fn sign(&mut self, sign: char) -> Result<(), TextError> {
        if self.eat(sign) { Ok(()) } else { Err(self.expected(&format!("'{sign}'"))) }
    }

    fn eat(&mut self, sign: char) -> bool {
        let found = *self.peek() == Token::Sign(sign);
        if found {
            self.next();
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(text) if text == word);
        if found {
            self.next();
        }
        found
    }

    /// A bare or quoted text.
    fn text(&mut self, what: &str) -> Result<String, TextError> {
        match self.peek() {
            Token::Word(text) | Token::Quoted(text) => {
                let text = text.clone();
                self.next();
                Ok(text)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Statements up to the end or a closing brace.
    fn graph(&mut self, outer: Option<&Names>, depth: usize) -> Result<Graph, TextError> {
        if depth > DEPTH_MAX {
            return Err(self.fail("bodies are nested too deeply"));
        }
        let mut graph = Graph::default();
        let mut names = Names::new();
        if self.eat_word("graph") {
            graph.name = self.text("a name")?;
        }
        loop {
            match self.peek().clone() {
                Token::Word(word) if word == "input" => {
                    self.next();
                    let id = self.declare(&mut graph, &mut names)?;
                    graph.inputs.push(id);
                }
                Token::Word(word) if word == "capture" => {
                    self.next();
                    let inner = self.declare(&mut graph, &mut names)?;
                    self.sign('=')?;
                    let outer = self.operand(outer.ok_or_else(|| self.fail("only bodies have captures"))?)?;
                    let outer = outer.ok_or_else(|| self.fail("a capture needs a value"))?;
                    graph.captures.push(Capture { outer, inner });
                }
                Token::Word(word) if word == "output" => {
                    self.next();
                    let id = self.operand(&names)?.ok_or_else(|| self.fail("an output needs a value"))?;
                    let name = graph.value(id).name.clone();
                    graph.outputs.push(id);
                    let name = if self.eat_word("as") { self.text("a name")? } else { name };
                    graph.output_names.push(name);
                }
                Token::Sign('$') => self.constant(&mut graph, &mut names)?,
                Token::Sign('%') | Token::Word(_) => {
                    let node = self.node(&mut graph, &mut names, depth)?;
                    graph.nodes.push(node);
                }
                _ => return Ok(graph),
            }
        }
    }

    /// `%name: type layout`, as the definition of a new value.
    fn declare(&mut self, graph: &mut Graph, names: &mut Names) -> Result<ValueId, TextError> {
        self.sign('%')?;
        let name = self.text("a name")?;
        let ty = if self.eat(':') { self.type_of(0)? } else { Type::Unknown };
        let layout = match self.peek() {
            Token::Word(word) => Layout::parse(word),
            _ => None,
        };
        if layout.is_some() {
            self.next();
        }
        let value = Value { name: name.clone(), ty, layout: layout.unwrap_or_default(), constant: None };
        self.define(graph, names, name, value)
    }

    fn define(&mut self, graph: &mut Graph, names: &mut Names, name: String, value: Value) -> Result<ValueId, TextError> {
        if names.contains_key(&name) {
            return Err(self.fail(format!("'{name}' is defined twice")));
        }
        let id = graph.add_value(value);
        names.insert(name, id);
        Ok(id)
    }

    fn constant(&mut self, graph: &mut Graph, names: &mut Names) -> Result<(), TextError> {
        self.sign('$')?;
        let name = self.text("a name")?;
        self.sign(':')?;
        let (dtype, shape) = self.fixed_type()?;
        self.sign('=')?;
        let tensor = self.tensor(dtype, shape)?;
        let value = Value::constant(&name, tensor);
        self.define(graph, names, name, value)?;
        Ok(())
    }

    /// `%name`, `$name` or `_`.
    fn operand(&mut self, names: &Names) -> Result<Option<ValueId>, TextError> {
        if self.eat_word("_") {
            return Ok(None);
        }
        if !self.eat('%') && !self.eat('$') {
            return Err(self.expected("a value"));
        }
        let name = self.text("a name")?;
        names.get(&name).map(|&id| Some(id)).ok_or_else(|| self.fail(format!("no value '{name}'")))
    }

    fn node(&mut self, graph: &mut Graph, names: &mut Names, depth: usize) -> Result<Node, TextError> {
        let start = self.at;
        // Outputs are defined after the inputs are read: a node cannot read itself.
        let mut outputs = Vec::new();
        loop {
            if self.eat_word("_") {
                outputs.push(None);
            } else {
                let at = self.at;
                let mut probe = Graph::default();
                self.declare(&mut probe, &mut Names::new())?;
                outputs.push(Some(at));
            }
            if !self.eat(',') {
                break;
            }
        }
        self.sign('=')?;
        let mut node = Node::new(&self.text("an operator")?, Vec::new(), Vec::new());
        self.sign('(')?;
        while !self.eat(')') {
            node.inputs.push(self.operand(names)?);
            if !self.eat(',') {
                self.sign(')')?;
                break;
            }
        }
        self.attributes(&mut node, names, depth)?;
        let end = std::mem::replace(&mut self.at, start);
        for output in outputs {
            let id = match output {
                None => None,
                Some(at) => {
                    self.at = at;
                    Some(self.declare(graph, names)?)
                }
            };
            node.outputs.push(id);
        }
        while matches!(node.outputs.last(), Some(None)) {
            node.outputs.pop();
        }
        self.at = end;
        Ok(node)
    }

    /// `name=value`, `name={ body }` and `@name`, in any order.
    fn attributes(&mut self, node: &mut Node, names: &Names, depth: usize) -> Result<(), TextError> {
        loop {
            if self.eat('@') {
                node.name = self.text("a name")?;
                continue;
            }
            let named = matches!(self.peek(), Token::Word(_) | Token::Quoted(_));
            let assigned = matches!(self.tokens.get(self.at + 1), Some((_, Token::Sign('='))));
            // `_ = Op()` begins the next statement.
            if !named || !assigned || *self.peek() == Token::Word("_".to_owned()) {
                return Ok(());
            }
            let name = self.text("a name")?;
            self.sign('=')?;
            if self.eat('{') {
                let body = self.graph(Some(names), depth + 1)?;
                self.sign('}')?;
                node.bodies.push((name, body));
            } else {
                let value = self.attribute()?;
                set(&mut node.attributes, &name, value).map_err(|reason| self.fail(reason))?;
            }
        }
    }

    fn attribute(&mut self) -> Result<Attribute, TextError> {
        match self.peek().clone() {
            Token::Quoted(text) => {
                self.next();
                Ok(Attribute::String(text))
            }
            Token::Sign('[') => self.attribute_list(),
            Token::Word(word) if matches!(self.tokens.get(self.at + 1), Some((_, Token::Sign('[')))) => {
                if word == "floats" || word == "strings" {
                    self.next();
                    self.sign('[')?;
                    self.sign(']')?;
                    return Ok(if word == "floats" { Attribute::Floats(Vec::new()) } else { Attribute::Strings(Vec::new()) });
                }
                let (dtype, shape) = self.fixed_type()?;
                self.sign(':')?;
                Ok(Attribute::Tensor(self.tensor(dtype, shape)?))
            }
            Token::Word(word) => {
                let value = number(&word).ok_or_else(|| self.expected("a value"))?;
                self.next();
                Ok(value)
            }
            _ => Err(self.expected("a value")),
        }
    }

    fn attribute_list(&mut self) -> Result<Attribute, TextError> {
        let items = self.items()?;
        let quoted = items.iter().all(|item| matches!(item, Token::Quoted(_)));
        if quoted && !items.is_empty() {
            let texts = items.into_iter().filter_map(|item| if let Token::Quoted(text) = item { Some(text) } else { None });
            return Ok(Attribute::Strings(texts.collect()));
        }
        let words = self.words(items)?;
        let ints: Option<Vec<i64>> = words.iter().map(|word| word.parse().ok()).collect();
        let floats: Option<Vec<f32>> = words.iter().map(|word| word.parse().ok()).collect();
        match (ints, floats) {
            (Some(ints), _) => Ok(Attribute::Ints(ints)),
            (_, Some(floats)) => Ok(Attribute::Floats(floats)),
            _ => Err(self.fail("a list of numbers or of quoted texts is needed")),
        }
    }

    /// `[a,b,c]`, each a word or a quoted text.
    fn items(&mut self) -> Result<Vec<Token>, TextError> {
        self.sign('[')?;
        let mut items = Vec::new();
        while !self.eat(']') {
            match self.peek() {
                Token::Word(_) | Token::Quoted(_) => items.push(self.next()),
                _ => return Err(self.expected("an element")),
            }
            if !self.eat(',') {
                self.sign(']')?;
                break;
            }
        }
        Ok(items)
    }

    fn words(&self, items: Vec<Token>) -> Result<Vec<String>, TextError> {
        let word = |item| if let Token::Word(word) = item { Ok(word) } else { Err(self.fail("numbers are not quoted")) };
        items.into_iter().map(word).collect()
    }

    fn type_of(&mut self, depth: usize) -> Result<Type, TextError> {
        if depth > DEPTH_MAX {
            return Err(self.fail("types are nested too deeply"));
        }
        if self.eat('?') {
            return Ok(Type::Unknown);
        }
        let word = self.text("a type")?;
        if word == "seq" || word == "opt" {
            self.sign('(')?;
            let of = Box::new(self.type_of(depth + 1)?);
            self.sign(')')?;
            return Ok(if word == "seq" { Type::Sequence(of) } else { Type::Optional(of) });
        }
        let dtype = DType::parse(&word).ok_or_else(|| self.fail(format!("unknown element type '{word}'")))?;
        self.sign('[')?;
        if self.eat('?') {
            self.sign(']')?;
            return Ok(Type::Tensor { dtype, shape: None });
        }
        let mut shape = Vec::new();
        while !self.eat(']') {
            let dim = match self.next() {
                Token::Word(word) => word.parse().map_or_else(|_| Dim::named(&word), Dim::Fixed),
                Token::Quoted(name) => Dim::named(&name),
                _ => return Err(self.expected("an extent")),
            };
            shape.push(dim);
            if !self.eat(',') {
                self.sign(']')?;
                break;
            }
        }
        Ok(Type::Tensor { dtype, shape: Some(shape) })
    }

    fn fixed_type(&mut self) -> Result<(DType, Vec<usize>), TextError> {
        let ty = self.type_of(0)?;
        ty.dtype().zip(ty.fixed_shape()).ok_or_else(|| self.fail("a constant needs all extents"))
    }

    /// The data of a constant: elements, bytes, a digest or `fill`.
    fn tensor(&mut self, dtype: DType, shape: Vec<usize>) -> Result<Tensor, TextError> {
        let count = shape.iter().try_fold(1usize, |size, &dim| size.checked_mul(dim));
        let count = count.ok_or_else(|| self.fail("the shape is too large"))?;
        match self.peek().clone() {
            Token::Digest(digest) => {
                self.next();
                let tensor = (self.constants)(&digest).ok_or_else(|| self.fail(format!("no constant #{digest}")))?;
                let fits = tensor.dtype() == dtype && tensor.shape() == shape;
                if fits { Ok(tensor) } else { Err(self.fail(format!("constant #{digest} is {tensor:?}"))) }
            }
            Token::Word(word) if word == "hex" => {
                self.next();
                let text = self.text("hexadecimal bytes")?;
                let bytes = unhex(&text).and_then(|bytes| Tensor::from_bytes(dtype, shape, bytes.into()));
                bytes.ok_or_else(|| self.fail("these bytes do not fill the shape"))
            }
            Token::Word(word) if word == "fill" => {
                self.next();
                self.fill(dtype, shape, count)
            }
            _ => {
                let items = self.items()?;
                if items.len() != count {
                    return Err(self.fail(format!("{} elements do not fill the shape {shape:?}", items.len())));
                }
                self.elements(dtype, shape, items)
            }
        }
    }

    fn elements(&mut self, dtype: DType, shape: Vec<usize>, items: Vec<Token>) -> Result<Tensor, TextError> {
        if dtype == DType::String {
            let texts = items.into_iter().map(|item| match item {
                Token::Word(text) | Token::Quoted(text) => text,
                _ => String::new(),
            });
            return Ok(Tensor::strings(shape, texts.collect()));
        }
        let words = self.words(items)?;
        let tensor = numbers(dtype, shape, &words);
        tensor.ok_or_else(|| self.fail(format!("elements that are not {dtype}")))
    }

    fn fill(&mut self, dtype: DType, shape: Vec<usize>, count: usize) -> Result<Tensor, TextError> {
        self.sign('(')?;
        let mut arguments = Vec::new();
        while !self.eat(')') {
            let word = self.text("a number")?;
            arguments.push(word.parse::<f64>().map_err(|_| self.fail("fill takes numbers"))?);
            if !self.eat(',') {
                self.sign(')')?;
                break;
            }
        }
        let (seed, lo, hi) = match arguments[..] {
            [seed] => (seed, -1.0, 1.0),
            [seed, lo, hi] => (seed, lo, hi),
            _ => return Err(self.fail("fill takes a seed, or a seed and a range")),
        };
        self.fill_left = self.fill_left.checked_sub(count).ok_or_else(|| self.fail("the text fills too many elements"))?;
        let mut state = seed as u64;
        let words: Vec<f64> = (0..count).map(|_| lo + (hi - lo) * uniform(&mut state)).collect();
        match dtype {
            DType::F32 => Ok(Tensor::new(shape, words.into_iter().map(|x| x as f32).collect())),
            DType::F64 => Ok(Tensor::new(shape, words)),
            DType::I64 => Ok(Tensor::new(shape, words.into_iter().map(|x| x as i64).collect())),
            _ => Err(self.fail("fill makes f32, f64 and i64")),
        }
    }
}

/// A number in [0, 1): splitmix64, so that a text means the same data everywhere.
fn uniform(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn set(attributes: &mut Attributes, name: &str, value: Attribute) -> Result<(), String> {
    if attributes.get(name).is_some() {
        return Err(format!("attribute '{name}' is given twice"));
    }
    attributes.set(name, value);
    Ok(())
}

fn number(word: &str) -> Option<Attribute> {
    word.parse().map(Attribute::Int).ok().or_else(|| word.parse().map(Attribute::Float).ok())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// Elements from their decimal form.
fn numbers(dtype: DType, shape: Vec<usize>, words: &[String]) -> Option<Tensor> {
    macro_rules! all {
        ($type:ty) => {
            Some(Tensor::new(shape, words.iter().map(|word| word.parse::<$type>().ok()).collect::<Option<Vec<_>>>()?))
        };
    }
    match dtype {
        DType::F32 => all!(f32),
        DType::F64 => all!(f64),
        DType::I64 => all!(i64),
        DType::I32 => all!(i32),
        DType::I16 => all!(i16),
        DType::I8 => all!(i8),
        DType::U64 => all!(u64),
        DType::U32 => all!(u32),
        DType::U16 => all!(u16),
        DType::U8 => all!(u8),
        DType::I4 | DType::I2 => all!(i8).and_then(|tensor| tensor.retyped(dtype)),
        DType::U4 | DType::U2 | DType::Bool => all!(u8).and_then(|tensor| tensor.retyped(dtype)),
        _ => None,
    }
}
