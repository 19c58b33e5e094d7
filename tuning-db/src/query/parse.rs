//! From tokens to a query, by descent; every refusal names the column and what would be right.

use super::field::{FIELDS, Field, Kind, nearest, units};
use super::lex::{Token, TokenKind, shown, tokens};
use super::{Direction, Expr, Mark, NESTING_MAX, Of, Op, Query, QueryError, TERMS_MAX, Value};

const MARKS: [(&str, Mark); 3] = [("stale", Mark::Stale), ("winner", Mark::Winner), ("refused", Mark::Refused)];
const KEYWORDS: [&str; 11] = ["and", "or", "not", "in", "is", "null", "order", "by", "asc", "desc", "limit"];

/// Reads a query's text.
///
/// # Errors
/// [`QueryError`].
pub fn query(text: &str) -> Result<Query, QueryError> {
    let tokens = tokens(text)?;
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens: &tokens, at: 0, end, depth: 0, terms: 0 };
    let test = if parser.is_at_end() || parser.is_word("order") || parser.is_word("limit") { None } else { Some(parser.expr()?) };
    let order = parser.order()?;
    let limit = parser.limit()?;
    if let Some(extra) = parser.peek() {
        let what = match extra.kind {
            TokenKind::Close => "no parenthesis is open here".to_owned(),
            _ if limit.is_some() => "nothing may follow the limit".to_owned(),
            _ if !order.is_empty() => "expected a comma, limit or the end".to_owned(),
            _ => "expected and, or, order by, limit or the end".to_owned(),
        };
        return Err(parser.error_at(extra, what));
    }
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Query { of: Of::default(), test, order, limit, now_s, text: text.to_owned() })
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// One column behind the text.
    end: usize,
    depth: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.kind == TokenKind::Word && token.text.eq_ignore_ascii_case(word))
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn takes(&mut self, kind: TokenKind) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == kind);
        self.at += usize::from(found);
        found
    }

    fn error_at(&self, token: &Token, what: impl Into<String>) -> QueryError {
        QueryError { column: token.column, near: shown(&token.text), what: what.into() }
    }

    /// An error at the next token, or at the end.
    fn error(&self, what: impl Into<String>) -> QueryError {
        match self.peek() {
            Some(token) => self.error_at(token, what),
            None => QueryError { column: self.end, near: "end".into(), what: what.into() },
        }
    }

    /// An error about everything from the token `from` up to here.
    fn error_from(&self, from: usize, what: impl Into<String>) -> QueryError {
        let near: String = self.tokens[from..self.at].iter().map(|token| token.text.as_str()).collect();
        QueryError { column: self.tokens[from].column, near: shown(&near), what: what.into() }
    }

    fn expr(&mut self) -> Result<Expr, QueryError> {
        let mut any = vec![self.term()?];
        while self.takes_word("or") {
            any.push(self.term()?);
        }
        Ok(if any.len() == 1 { any.swap_remove(0) } else { Expr::Or(any) })
    }

    fn term(&mut self) -> Result<Expr, QueryError> {
        let mut all = vec![self.fact()?];
        while self.takes_word("and") {
            all.push(self.fact()?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Expr::And(all) })
    }

    fn fact(&mut self) -> Result<Expr, QueryError> {
        if self.depth >= NESTING_MAX {
            return Err(self.error(format!("nested more than {NESTING_MAX} deep")));
        }
        if self.takes_word("not") {
            if self.is_word("not") {
                return Err(self.error("not stands once"));
            }
            self.depth += 1;
            let fact = self.fact()?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(fact)));
        }
        if self.takes(TokenKind::Open) {
            self.depth += 1;
            let inner = self.expr()?;
            self.depth -= 1;
            if !self.takes(TokenKind::Close) {
                return Err(self.error("expected and, or or a closing parenthesis"));
            }
            return Ok(inner);
        }
        self.test()
    }

    fn count(&mut self) -> Result<(), QueryError> {
        self.terms += 1;
        if self.terms > TERMS_MAX { Err(self.error(format!("more than {TERMS_MAX} tests and values"))) } else { Ok(()) }
    }

    fn test(&mut self) -> Result<Expr, QueryError> {
        self.count()?;
        let from = self.at;
        let Some(token) = self.peek() else { return Err(self.error("expected a test, like p99<5ms")) };
        if token.kind != TokenKind::Word {
            return Err(self.error("expected a field, a mark, not or a parenthesis"));
        }
        if let Some((_, mark)) = MARKS.iter().find(|(name, _)| *name == token.text) {
            self.at += 1;
            return Ok(Expr::Mark(*mark));
        }
        let field = self.field(true)?;
        if self.takes_word("is") {
            let negated = self.takes_word("not");
            if !self.takes_word("null") {
                return Err(self.error("expected null"));
            }
            return Ok(negate(Expr::IsNull(field), negated));
        }
        let negated = self.takes_word("not");
        if self.takes_word("in") {
            return Ok(negate(Expr::In(field, self.list(field)?), negated));
        }
        if negated {
            return Err(self.error("expected in"));
        }
        let Some(Token { kind: TokenKind::Op(op), .. }) = self.peek() else {
            return Err(self.error("expected = != < <= > >= ~, in or is"));
        };
        self.at += 1;
        self.compares(field, *op, from)?;
        let value = self.value(field, from)?;
        Ok(Expr::Compare(field, *op, value))
    }

    fn compares(&self, field: Field, op: Op, from: usize) -> Result<(), QueryError> {
        let (name, kind) = (field.name(), field.kind());
        match (kind, op) {
            (Kind::Text, Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual) => {
                Err(self.error_from(from, format!("{name} is a text: use = != ~ or in")))
            }
            (Kind::Text, _) => Ok(()),
            (_, Op::Like) => Err(self.error_from(from, format!("{name} is {}: ~ compares texts only", kind.description()))),
            _ => Ok(()),
        }
    }

    fn list(&mut self, field: Field) -> Result<Vec<Value>, QueryError> {
        if !self.takes(TokenKind::Open) {
            return Err(self.error("expected a parenthesis, as in batch in (1, 16)"));
        }
        let mut values = Vec::new();
        loop {
            self.count()?;
            let from = self.at;
            values.push(self.value(field, from)?);
            if self.takes(TokenKind::Close) {
                return Ok(values);
            }
            if !self.takes(TokenKind::Comma) {
                return Err(self.error("expected a comma or a closing parenthesis"));
            }
        }
    }

    /// The field named next. A test may also be a mark.
    fn field(&mut self, or_mark: bool) -> Result<Field, QueryError> {
        let Some(token) = self.peek() else { return Err(self.error("expected a field")) };
        if let Some(field) = (token.kind == TokenKind::Word).then(|| Field::parse(&token.text)).flatten() {
            self.at += 1;
            return Ok(field);
        }
        if KEYWORDS.iter().any(|keyword| token.text.eq_ignore_ascii_case(keyword)) {
            return Err(self.error("expected a field"));
        }
        let marks = MARKS.iter().map(|(name, _)| *name).filter(|_| or_mark);
        let near = nearest(&token.text, FIELDS.iter().map(|(name, ..)| *name).chain(marks));
        let hint = near.map_or_else(
            || format!("fields are {}", FIELDS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean {near}?"),
        );
        Err(self.error(format!("there is no field of this name; {hint}")))
    }

    fn value(&mut self, field: Field, from: usize) -> Result<Value, QueryError> {
        let Some(token) = self.peek() else { return Err(self.error("expected a value")) };
        if !matches!(token.kind, TokenKind::Word | TokenKind::Number | TokenKind::Quoted) {
            return Err(self.error("expected a value"));
        }
        if token.kind == TokenKind::Word && KEYWORDS.iter().any(|keyword| token.text.eq_ignore_ascii_case(keyword)) {
            let what = format!("expected a value; the word itself is written \"{}\"", token.text);
            return Err(self.error(what));
        }
        self.at += 1;
        match field.kind() {
            Kind::Text => Ok(Value::Text(token.text.clone())),
            Kind::Grade => self.grade(field, token, from),
            _ if token.kind != TokenKind::Number => {
                let kind = field.kind().description();
                Err(self.error_from(from, format!("{} is {kind}, \"{}\" is none", field.name(), shown(&token.text))))
            }
            _ => self.number(field, token, from),
        }
    }

    fn grade(&self, field: Field, token: &Token, from: usize) -> Result<Value, QueryError> {
        match ["A", "B", "C", "D"].iter().position(|grade| token.text.eq_ignore_ascii_case(grade)) {
            Some(rank) => Ok(Value::Number(rank as f64)),
            None => Err(self.error_from(from, format!("{} is a grade: A, B, C or D", field.name()))),
        }
    }

    fn number(&self, field: Field, token: &Token, from: usize) -> Result<Value, QueryError> {
        let (digits, unit) = split_number(&token.text);
        let (name, kind) = (field.name(), field.kind());
        let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
        let Some(number) = number else {
            return Err(self.error_from(from, format!("\"{}\" is no number", shown(digits))));
        };
        let known = units(kind);
        if unit.is_empty() {
            return match kind.required_unit() {
                None => Ok(Value::Number(number)),
                Some(proposed) => {
                    let written: String = self.tokens[from..self.at].iter().map(|token| token.text.as_str()).collect();
                    let what = format!("{name} is {} and needs a unit; write {}{proposed}", kind.description(), shown(&written));
                    Err(self.error_from(from, what))
                }
            };
        }
        if let Some((_, scale)) = known.iter().find(|(name, _)| *name == unit) {
            return Ok(Value::Number(number * scale));
        }
        let what = if known.is_empty() {
            format!("{name} is {} without a unit; \"{}\" is too much", kind.description(), shown(unit))
        } else {
            let names = known.iter().map(|(name, _)| *name);
            let near = nearest(unit, names.clone()).map_or(String::new(), |near| format!("; did you mean {near}?"));
            let list = names.collect::<Vec<_>>().join(", ");
            format!("{name} has no unit \"{}\"; units are {list}{near}", shown(unit))
        };
        Err(self.error_from(from, what))
    }

    fn order(&mut self) -> Result<Vec<(Field, Direction)>, QueryError> {
        let mut keys = Vec::new();
        if !self.takes_word("order") {
            return Ok(keys);
        }
        if !self.takes_word("by") {
            return Err(self.error("expected by"));
        }
        loop {
            self.count()?;
            let field = self.field(false)?;
            let descending = !self.takes_word("asc") && self.takes_word("desc");
            keys.push((field, if descending { Direction::Descending } else { Direction::Ascending }));
            if !self.takes(TokenKind::Comma) {
                return Ok(keys);
            }
        }
    }

    fn limit(&mut self) -> Result<Option<u64>, QueryError> {
        if !self.takes_word("limit") {
            return Ok(None);
        }
        let limit = self.peek().filter(|token| token.kind == TokenKind::Number).and_then(|token| token.text.parse().ok());
        if limit.is_none() {
            return Err(self.error("expected a whole number, as in limit 5"));
        }
        self.at += 1;
        Ok(limit)
    }
}

fn negate(expr: Expr, negated: bool) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

/// Digits, point and exponent; the rest is the unit.
fn split_number(text: &str) -> (&str, &str) {
    let digits = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits(0);
    if text[end..].starts_with('.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if text[end..].starts_with('e') {
        let sign = usize::from(text[end + 1..].starts_with('-'));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    text.split_at(end)
}
