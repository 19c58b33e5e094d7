use kernels::reference::{self, Budget, Call, EvaluateError, dtype_of_onnx};
use kernels::{Attribute, Attributes, Datum, Tensor};
use schema::DType;
use std::collections::{BTreeMap, HashMap};

struct R<'a>(&'a [u8]);
impl<'a> R<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }
    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
    fn f64(&mut self) -> f64 {
        f64::from_bits(self.u64())
    }
    fn s(&mut self) -> String {
        let n = self.u32() as usize;
        String::from_utf8_lossy(self.take(n)).into_owned()
    }
    fn datum(&mut self) -> Datum {
        match self.u8() {
            0 => {
                let dtype = dtype_of_onnx(self.u32() as i64).unwrap();
                let rank = self.u32();
                let shape: Vec<usize> = (0..rank).map(|_| self.u64() as usize).collect();
                if dtype == DType::String {
                    let n = shape.iter().product::<usize>();
                    return Tensor::strings(shape, (0..n).map(|_| self.s()).collect()).into();
                }
                let n = self.u64() as usize;
                Tensor::from_bytes(dtype, shape.clone(), bytes::Bytes::copy_from_slice(self.take(n)))
                    .unwrap_or_else(|| panic!("{dtype} {shape:?} {n}"))
                    .into()
            }
            1 => {
                let n = self.u32();
                Datum::Sequence((0..n).map(|_| self.datum()).collect())
            }
            2 => Datum::Optional(None),
            _ => Datum::Optional(Some(Box::new(self.datum()))),
        }
    }
    fn list<T>(&mut self, mut f: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let n = self.u32();
        (0..n).map(|_| f(self)).collect()
    }
}

fn floats(t: &Tensor) -> Vec<f64> {
    let out = reference::evaluate(&Call {
        op: "Cast",
        attributes: &Attributes::default().with("to", Attribute::Int(11)),
        inputs: &[Some(&t.clone().into())],
        outputs: 1,
        budget: &Budget::unlimited(),
    })
    .unwrap();
    out[0].tensor().unwrap().values::<f64>().unwrap().into_owned()
}

fn compare(got: &Datum, want: &Datum, rtol: f64, atol: f64) -> Result<(), String> {
    match (got, want) {
        (Datum::Tensor(g), Datum::Tensor(w)) => {
            if g.dtype() != w.dtype() || g.shape() != w.shape() {
                return Err(format!("{} {:?} wants {} {:?}", g.dtype(), g.shape(), w.dtype(), w.shape()));
            }
            if let (Some(a), Some(b)) = (g.texts(), w.texts()) {
                return if a == b { Ok(()) } else { Err(format!("{a:?} wants {b:?}")) };
            }
            if matches!(g.dtype(), DType::C64 | DType::C128) {
                return if g.bytes() == w.bytes() { Ok(()) } else { Err("complex".into()) };
            }
            for (i, (a, b)) in floats(g).into_iter().zip(floats(w)).enumerate() {
                let ok = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
                if !ok {
                    return Err(format!("[{i}] {a} wants {b} of {} {:?}", g.dtype(), g.shape()));
                }
            }
            Ok(())
        }
        (Datum::Sequence(g), Datum::Sequence(w)) => {
            if g.len() != w.len() {
                return Err(format!("sequence of {} wants {}", g.len(), w.len()));
            }
            g.iter().zip(w).try_for_each(|(a, b)| compare(a, b, rtol, atol))
        }
        (Datum::Optional(None), Datum::Optional(None)) => Ok(()),
        (Datum::Optional(Some(a)), Datum::Optional(Some(b))) => compare(a, b, rtol, atol),
        (a, Datum::Optional(Some(b))) => compare(a, b, rtol, atol),
        _ => Err("kinds differ".into()),
    }
}

fn run(nodes: &[u8], case: &[u8]) -> Result<(), String> {
    let mut r = R(nodes);
    let inputs = r.list(R::s);
    let outputs = r.list(R::s);
    let inits = r.list(|r| (r.s(), r.datum()));
    let nodes = r.list(|r| {
        let op = r.s();
        let ins = r.list(R::s);
        let outs = r.list(R::s);
        let mut attributes = Attributes::default();
        for _ in 0..r.u32() {
            let name = r.s();
            let value = match r.u8() {
                b'f' => Attribute::Float(f32::from_bits(r.u32())),
                b'i' => Attribute::Int(r.u64() as i64),
                b's' => Attribute::String(r.s()),
                b't' => Attribute::Tensor(r.datum().tensor().unwrap().clone()),
                b'F' => Attribute::Floats(r.list(|r| f32::from_bits(r.u32()))),
                b'I' => Attribute::Ints(r.list(|r| r.u64() as i64)),
                _ => Attribute::Strings(r.list(R::s)),
            };
            attributes.set(&name, value);
        }
        (op, ins, outs, attributes)
    });
    let mut c = R(case);
    c.take(8);
    let (rtol, atol) = (c.f64(), c.f64());
    for _ in 0..c.u32() {
        let (ins, outs) = (c.list(R::datum), c.list(R::datum));
        let mut values: HashMap<String, Datum> = inits.iter().cloned().collect();
        values.extend(inputs.iter().cloned().zip(ins));
        for (op, ins, outs, attributes) in &nodes {
            let ins: Vec<Option<&Datum>> =
                ins.iter().map(|n| if n.is_empty() { None } else { Some(values.get(n).expect("value")) }).collect();
            let budget = Budget::unlimited();
            let got = reference::evaluate(&Call { op, attributes, inputs: &ins, outputs: outs.len(), budget: &budget }).map_err(
                |e| match e {
                    EvaluateError::Unsupported(e) => format!("REFUSED {e}"),
                    e => format!("ERROR {e:?}"),
                },
            )?;
            for (i, name) in outs.iter().enumerate() {
                if name.is_empty() {
                    continue;
                }
                let d = got.get(i).ok_or_else(|| format!("ERROR {op}: output {i} missing"))?.clone();
                values.insert(name.clone(), d);
            }
        }
        for (name, want) in outputs.iter().zip(&outs) {
            compare(values.get(name).ok_or("no output")?, want, rtol, atol).map_err(|e| format!("WRONG {name} {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn interim() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/onnx-nodes");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "nodes"))
        .collect();
    names.sort();
    let filter = std::env::var("F").unwrap_or_default();
    std::panic::set_hook(Box::new(|_| ()));
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if !name.contains(&filter) {
            continue;
        }
        let (n, c) = (std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("case")).unwrap());
        let started = std::time::Instant::now();
        let result = std::panic::catch_unwind(|| run(&n, &c)).unwrap_or_else(|e| {
            Err(format!("PANIC {:?}", e.downcast_ref::<String>().cloned().or(e.downcast_ref::<&str>().map(|s| s.to_string()))))
        });
        let ms = started.elapsed().as_millis();
        if ms > 300 {
            println!("{name}: SLOW {ms}");
        }
        match result {
            Ok(()) => *counts.entry("PASS".into()).or_default() += 1,
            Err(e) => {
                *counts.entry(e.split(' ').next().unwrap().to_owned()).or_default() += 1;
                println!("{name}: {}", e.chars().take(200).collect::<String>());
            }
        }
    }
    println!("{counts:?}");
}
