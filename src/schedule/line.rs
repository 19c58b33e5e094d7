//! Times that grow with the batch along a line.

use super::Nanos;

/// time(rows) = `per_row_ns` · rows + `fixed_ns`, neither of them negative.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Line {
    pub per_row_ns: f64,
    pub fixed_ns: f64,
}

impl Line {
    /// Nanoseconds for so many rows.
    pub fn at(self, rows: u32) -> f64 {
        self.per_row_ns * f64::from(rows) + self.fixed_ns
    }

    /// The line of least squared relative error through `points`: small batches count as much as large ones. A single point has no
    /// fixed part; no point gives zero.
    pub fn through(points: &[(u32, Nanos)]) -> Line {
        let measured = points.iter().filter(|(_, time)| time.0 > 0);
        let (mut n, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(rows, time) in measured {
            let (rows, time) = (f64::from(rows), time.as_f64());
            let weight = 1.0 / (time * time);
            n += weight;
            x += weight * rows;
            y += weight * time;
            xx += weight * rows * rows;
            xy += weight * rows * time;
        }
        let spread = n * xx - x * x;
        if spread <= 1e-9 * n * xx {
            return Line { per_row_ns: if xx > 0.0 { xy / xx } else { 0.0 }, fixed_ns: 0.0 };
        }
        let slope = (n * xy - x * y) / spread;
        let fixed = (y - slope * x) / n;
        match (slope < 0.0, fixed < 0.0) {
            (true, _) => Line { per_row_ns: 0.0, fixed_ns: y / n },
            (_, true) => Line { per_row_ns: xy / xx, fixed_ns: 0.0 },
            _ => Line { per_row_ns: slope, fixed_ns: fixed },
        }
    }
}

impl From<schema::Line> for Line {
    /// A negative slope or intercept of a record is noise around zero.
    fn from(line: schema::Line) -> Line {
        Line { per_row_ns: line.slope_ps.max(0) as f64 * 1e-3, fixed_ns: line.intercept_ps.max(0) as f64 * 1e-3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_its_points_and_never_below_zero() {
        let line = Line::through(&[(1, Nanos(9)), (4, Nanos(12)), (16, Nanos(24))]);
        assert!((line.per_row_ns - 1.0).abs() < 1e-9 && (line.fixed_ns - 8.0).abs() < 1e-9, "{line:?}");
        assert_eq!(Line::through(&[(4, Nanos(20))]), Line { per_row_ns: 5.0, fixed_ns: 0.0 });
        assert_eq!(Line::through(&[]), Line::default());
        let falling = Line::through(&[(1, Nanos(20)), (8, Nanos(10))]);
        assert!(falling.per_row_ns == 0.0 && falling.fixed_ns > 0.0, "{falling:?}");
        let steep = Line::through(&[(1, Nanos(1)), (8, Nanos(100))]);
        assert!(steep.fixed_ns == 0.0 && steep.per_row_ns > 0.0, "{steep:?}");
    }
}
