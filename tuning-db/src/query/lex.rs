//! A query's text as tokens.

use super::{Op, QueryError, TEXT_BYTES_MAX};

/// A piece of the text, with the column of its first character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub column: usize,
    pub text: String,
    pub kind: TokenKind,
}

/// What a piece is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Begins with a letter or `*`.
    Word,
    /// Begins with a digit; a unit may stand behind.
    Number,
    /// Stood between quotes, which are not part of the text.
    Quoted,
    Op(Op),
    Open,
    Close,
    Comma,
}

const OPS: &[(&str, Op)] = &[
    ("!=", Op::NotEqual),
    ("<=", Op::LessEqual),
    (">=", Op::GreaterEqual),
    ("=", Op::Equal),
    ("<", Op::Less),
    (">", Op::Greater),
    ("~", Op::Like),
];

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.:/*?".contains(c)
}

fn in_number(c: char) -> bool {
    in_word(c) || c == '%'
}

/// A character as messages show it: controls escaped.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

/// All tokens.
///
/// # Errors
/// [`QueryError`] at the first character that begins none.
pub fn tokens(text: &str) -> Result<Vec<Token>, QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("a query has at most {TEXT_BYTES_MAX} bytes, this one has {}", text.len());
        return Err(QueryError { column: 1, near: shown(text), what });
    }
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let c = characters[at];
        let column = at + 1;
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        let run = |inside: fn(char) -> bool| characters[at..].iter().take_while(|c| inside(**c)).collect::<String>();
        let two: String = characters[at..].iter().take(2).collect();
        let op = OPS.iter().find(|(sign, _)| two.starts_with(sign));
        let (kind, token, len) = match c {
            '(' => (TokenKind::Open, "(".to_owned(), 1),
            ')' => (TokenKind::Close, ")".to_owned(), 1),
            ',' => (TokenKind::Comma, ",".to_owned(), 1),
            '"' => {
                let inside: String = characters[at + 1..].iter().take_while(|c| **c != '"').collect();
                let len = inside.chars().count() + 2;
                if at + len > characters.len() {
                    let near = shown(&characters[at..].iter().collect::<String>());
                    return Err(QueryError { column, near, what: "a quote is not closed".into() });
                }
                (TokenKind::Quoted, inside, len)
            }
            _ if op.is_some() => {
                let (sign, op) = op.expect("just asked");
                (TokenKind::Op(*op), (*sign).to_owned(), sign.len())
            }
            '0'..='9' => {
                let token = run(in_number);
                let len = token.chars().count();
                (TokenKind::Number, token, len)
            }
            _ if c.is_alphabetic() || c == '*' => {
                let token = run(in_word);
                let len = token.chars().count();
                (TokenKind::Word, token, len)
            }
            _ => {
                let what = match c {
                    '-' | '+' => "numbers have no sign".to_owned(),
                    '\'' => "texts stand in double quotes".to_owned(),
                    '&' => "write and".to_owned(),
                    '|' => "write or".to_owned(),
                    '!' => "write not, or != between field and value".to_owned(),
                    _ => "no word, number or sign begins so".to_owned(),
                };
                return Err(QueryError { column, near: shown(&c.to_string()), what });
            }
        };
        tokens.push(Token { column, text: token, kind });
        at += len;
    }
    Ok(tokens)
}
