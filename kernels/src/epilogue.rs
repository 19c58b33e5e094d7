//! What a kernel does to its result before it leaves the registers: add a bias, add a residual, apply an activation.

use std::fmt;

/// A function applied to each element. Parameters are f32.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub enum Activation {
    #[default]
    None,
    Relu,
    LeakyRelu {
        alpha: f32,
    },
    /// min(max(x, lo), hi)
    Clip {
        lo: f32,
        hi: f32,
    },
    Sigmoid,
    Tanh,
    /// x · sigmoid(x)
    Silu,
    /// min(max(alpha · x + beta, 0), 1)
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    /// x · HardSigmoid(x) with alpha 1/6 and beta 1/2
    HardSwish,
    /// x/2 · (1 + erf(x/√2))
    Gelu,
    /// x/2 · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))
    GeluTanh,
}

/// Bias, then residual, then activation: `act(acc + bias[channel] + residual)`.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Epilogue {
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
}

impl Activation {
    /// The exact function, in f64.
    pub fn apply(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            Activation::None => x,
            Activation::Relu => x.max(0.0),
            Activation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f64::from(alpha) * x
                } else {
                    x
                }
            }
            Activation::Clip { lo, hi } => x.max(f64::from(lo)).min(f64::from(hi)),
            Activation::Sigmoid => sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::Silu => x * sigmoid(x),
            Activation::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        }
    }

    /// The activation whose [`Display`](fmt::Display) form is `text`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')')?),
            None => (text, ""),
        };
        let arguments: Vec<f32> =
            arguments.split(',').filter(|a| !a.is_empty()).map(|a| a.parse().ok()).collect::<Option<_>>()?;
        Some(match (name, &arguments[..]) {
            ("none", []) => Activation::None,
            ("relu", []) => Activation::Relu,
            ("leaky_relu", &[alpha]) => Activation::LeakyRelu { alpha },
            ("clip", &[lo, hi]) => Activation::Clip { lo, hi },
            ("sigmoid", []) => Activation::Sigmoid,
            ("tanh", []) => Activation::Tanh,
            ("silu", []) => Activation::Silu,
            ("hard_sigmoid", &[alpha, beta]) => Activation::HardSigmoid { alpha, beta },
            ("hard_swish", []) => Activation::HardSwish,
            ("gelu", []) => Activation::Gelu,
            ("gelu_tanh", []) => Activation::GeluTanh,
            _ => return None,
        })
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Activation::None => f.write_str("none"),
            Activation::Relu => f.write_str("relu"),
            Activation::LeakyRelu { alpha } => write!(f, "leaky_relu({alpha})"),
            Activation::Clip { lo, hi } => write!(f, "clip({lo},{hi})"),
            Activation::Sigmoid => f.write_str("sigmoid"),
            Activation::Tanh => f.write_str("tanh"),
            Activation::Silu => f.write_str("silu"),
            Activation::HardSigmoid { alpha, beta } => write!(f, "hard_sigmoid({alpha},{beta})"),
            Activation::HardSwish => f.write_str("hard_swish"),
            Activation::Gelu => f.write_str("gelu"),
            Activation::GeluTanh => f.write_str("gelu_tanh"),
        }
    }
}

impl Epilogue {
    /// The epilogue whose [`Display`](fmt::Display) form is `text`: `none`, `bias`, `bias+residual+relu`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut epilogue = Epilogue::default();
        for part in text.split('+') {
            match part {
                "none" | "" => {}
                "bias" => epilogue.bias = true,
                "residual" => epilogue.residual = true,
                _ => epilogue.activation = Activation::parse(part)?,
            }
        }
        Some(epilogue)
    }

    /// `act(acc + bias + residual)`, exactly; absent terms are 0.
    pub fn apply(&self, acc: f64, bias: f64, residual: f64) -> f64 {
        self.activation.apply(acc + bias + residual)
    }
}

impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.bias {
            parts.push("bias".to_owned());
        }
        if self.residual {
            parts.push("residual".to_owned());
        }
        if self.activation != Activation::None || parts.is_empty() {
            parts.push(self.activation.to_string());
        }
        f.write_str(&parts.join("+"))
    }
}

/// The error function in f64, to about 1e-15: the Maclaurin series below 3 and the continued fraction of erfc above.
///
/// Source: Abramowitz and Stegun 1964, 7.1.6 and 7.1.14.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        return (2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum).copysign(x);
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let mut fraction = a;
    for k in (1..=60).rev() {
        fraction = a + f64::from(k) / 2.0 / fraction;
    }
    (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_parse_back() {
        for text in ["none", "bias", "relu", "bias+residual+clip(0,6)", "residual+leaky_relu(0.1)", "bias+hard_sigmoid(0.2,0.5)"]
        {
            assert_eq!(Epilogue::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Epilogue::parse("bias+wavy"), None);
    }

    #[test]
    fn erf_agrees_with_published_values() {
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.5204998778130465),
            (1.0, 0.8427007929497149),
            (2.0, 0.9953222650189527),
            (3.5, 0.9999992569016276),
        ] {
            assert!((erf(x) - y).abs() < 2e-15, "erf({x}) = {} and not {y}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
