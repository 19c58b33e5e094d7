//! Aligned columns for people.

/// How a column is aligned.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Lays out rows in columns two blanks apart; trailing blanks are cut. Widths count characters, and escapes of colour as none. The last
/// cell of a row that is shorter than others runs on freely: it widens no column.
pub fn lay_out(rows: &[Vec<String>], align: &[Align]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let counts = |row: &&Vec<String>, i: usize| i + 1 < row.len() || row.len() == columns;
    let cells = |i: usize| rows.iter().filter(move |row| counts(row, i)).filter_map(move |row| row.get(i));
    let widths: Vec<usize> = (0..columns).map(|i| cells(i).map(|cell| width(cell)).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i].saturating_sub(width(cell)));
            let right = align.get(i) == Some(&Align::Right);
            line.push_str(if i > 0 { "  " } else { "" });
            line.push_str(if right { &pad } else { cell });
            line.push_str(if right { cell } else { &pad });
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Characters that take a column: all but the escapes that set colours.
fn width(text: &str) -> usize {
    let (mut count, mut escape) = (0, false);
    for c in text.chars() {
        match c {
            '\x1b' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            _ => count += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["\x1b[31mlong\x1b[0m".into(), "9".into()]];
        assert_eq!(lay_out(&rows, &[Align::Left, Align::Right]), ["a     10", "\x1b[31mlong\x1b[0m   9"]);
    }
}
