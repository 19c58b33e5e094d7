//! What a benchmark asks for: the models of a mix, and their samples.

use super::super::explain::from_session;
use super::super::failure::{Failure, escape, nearest};
use super::super::run::read_npz;
use crate::execute::Port;
use crate::session::{Request, Session};
use kernels::Tensor;
use schema::{Batch, DType, Share};
use std::path::{Path, PathBuf};

/// A model and its part of the queries.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub path: PathBuf,
    pub weight: f64,
}

/// `NAME=WEIGHT`.
///
/// # Errors
/// Says what a part of a mix looks like.
pub fn weight(text: &str) -> Result<(String, f64), String> {
    let wrong = || "a part of a mix is NAME=WEIGHT with a weight over 0; write --mix a.tune=0.7,b.tune=0.3".to_owned();
    let (name, weight) = text.rsplit_once('=').ok_or_else(wrong)?;
    let weight = weight.parse::<f64>().ok().filter(|weight| *weight > 0.0 && weight.is_finite()).ok_or_else(wrong)?;
    if name.is_empty() { Err(wrong()) } else { Ok((name.to_owned(), weight)) }
}

/// The artifacts with their weights; equal ones without a mix. An artifact is named by its path, its file name or that without `.tune`.
///
/// # Errors
/// A name that no artifact has or two have, an artifact without a weight.
pub fn parts(files: &[PathBuf], mix: &[(String, f64)]) -> Result<Vec<Part>, Failure> {
    if mix.is_empty() {
        return Ok(files.iter().map(|path| Part { path: path.clone(), weight: 1.0 }).collect());
    }
    let mut weights = vec![None; files.len()];
    for (name, weight) in mix {
        let meant: Vec<usize> = (0..files.len()).filter(|&at| names(&files[at]).contains(name)).collect();
        let flag = format!("--mix {name}={weight}");
        match meant[..] {
            [at] if weights[at].is_none() => weights[at] = Some(*weight),
            [_] => return Err(Failure::new("usage.value", flag, "it has a weight already").remedy("name each artifact once")),
            [] => {
                let known: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                let near = nearest(name, known.iter().map(String::as_str)).map(|near| format!("did you mean {near}?"));
                let failure = Failure::new("usage.value", flag, format!("there is no such artifact among {}", known.join(", ")));
                return Err(failure.remedy(near.unwrap_or_else(|| "name it among the artifacts".to_owned())));
            }
            _ => return Err(Failure::new("usage.value", flag, "two artifacts have that name").remedy("write the whole path")),
        }
    }
    let part = |(path, weight): (&PathBuf, Option<f64>)| {
        let missing = || Failure::new("usage.value", "--mix", format!("{} has no weight", path.display()));
        let weight = weight.ok_or_else(|| missing().remedy(format!("add {}=1", path.display())))?;
        Ok(Part { path: path.clone(), weight })
    };
    files.iter().zip(weights).map(part).collect()
}

fn names(file: &Path) -> Vec<String> {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    std::iter::once(file.display().to_string()).chain(text(file.file_name())).chain(text(file.file_stem())).collect()
}

/// The requests of a model's samples: those of a file, else one of zeros.
///
/// # Errors
/// A file that can't be read or doesn't hold what the model wants, an axis that is open.
pub fn requests(
    session: &Session,
    path: &Path,
    name: &str,
    batch: Batch,
    share: Option<Share>,
    file: Option<&Path>,
) -> Result<Vec<Request>, Failure> {
    let (ports, _) = session.ports(name, batch).map_err(|error| from_session(path, &error))?;
    let mut request = Request::new(name);
    if let Some(share) = share {
        request = request.share(share);
    }
    let Some(file) = file else {
        let zeros = |request: Request, port: &Port| Ok(request.input(&port.name, zeros(path, port)?));
        return Ok(vec![ports.iter().try_fold(request, zeros)?]);
    };
    let arrays = read_npz(file)?;
    let wanted = |port: &Port| {
        let found = arrays.iter().find(|(name, _)| *name == port.name).map(|(_, tensor)| tensor);
        let missing = || {
            let names: Vec<&str> = arrays.iter().map(|(name, _)| name.as_str()).collect();
            let why = format!("input \"{}\" is missing; the file has {}", escape(&port.name), names.join(", "));
            Failure::new("input.shape_mismatch", file.display(), why)
        };
        slices(path, file, port, found.ok_or_else(missing)?)
    };
    let inputs = ports.iter().map(wanted).collect::<Result<Vec<Vec<Tensor>>, _>>()?;
    let samples = inputs.iter().map(Vec::len).min().unwrap_or(1);
    if let Some(at) = inputs.iter().position(|input| input.len() != samples) {
        let why = format!("\"{}\" holds {} samples, another input {samples}", escape(&ports[at].name), inputs[at].len());
        return Err(Failure::new("input.shape_mismatch", file.display(), why).remedy("give every input as many"));
    }
    let sample = |at: usize| {
        let add = |request: Request, (port, input): (&Port, &Vec<Tensor>)| request.input(&port.name, input[at].clone());
        ports.iter().zip(&inputs).fold(request.clone(), add)
    };
    Ok((0..samples).map(sample).collect())
}

/// The samples of an input: each as many rows as a request has.
fn slices(path: &Path, file: &Path, port: &Port, all: &Tensor) -> Result<Vec<Tensor>, Failure> {
    let (dtype, shape) = fixed(path, port)?;
    let rows = shape.first().copied().unwrap_or(1).max(1);
    let fits = all.dtype() == dtype
        && dtype != DType::String
        && all.shape().len() == shape.len()
        && all.shape().get(1..) == shape.get(1..)
        && all.shape().first().is_none_or(|&found| found > 0 && found % rows == 0);
    if !fits {
        let why =
            format!("\"{}\" is {all:?}, the model wants {dtype}{shape:?} a sample, one after the other", escape(&port.name));
        return Err(Failure::new("input.shape_mismatch", file.display(), why).remedy("reshape it"));
    }
    let bytes = all.shared_bytes();
    let size = shape.iter().product::<usize>() * dtype.bytes();
    let count = all.shape().first().map_or(1, |&found| found / rows);
    let slice = |at: usize| Tensor::from_bytes(dtype, shape.clone(), bytes.slice(at * size..(at + 1) * size));
    Ok((0..count).filter_map(slice).collect())
}

fn fixed(path: &Path, port: &Port) -> Result<(DType, Vec<usize>), Failure> {
    let open =
        || Failure::new("input.open_axis", path.display(), format!("the size of input \"{}\" is open", escape(&port.name)));
    Ok((port.ty.dtype().ok_or_else(open)?, port.ty.fixed_shape().ok_or_else(open)?))
}

/// An input of zeros: legal for every model, indices included.
fn zeros(path: &Path, port: &Port) -> Result<Tensor, Failure> {
    let (dtype, shape) = fixed(path, port)?;
    let count: usize = shape.iter().product();
    if dtype == DType::String {
        return Ok(Tensor::strings(shape, vec![String::new(); count]));
    }
    let zeros = Tensor::from_bytes(dtype, shape, vec![0; count * dtype.bytes()].into());
    zeros.ok_or_else(|| Failure::new("input.open_axis", path.display(), "an input has no size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_mix_are_named_once_each() {
        let files: Vec<PathBuf> = ["models/a.tune", "b.tune"].map(PathBuf::from).to_vec();
        let read = |mix: &[&str]| {
            let mix: Vec<(String, f64)> = mix.iter().map(|text| weight(text).unwrap()).collect();
            parts(&files, &mix).map_err(|failure| failure.to_string())
        };
        assert!(read(&[]).unwrap().iter().all(|part| part.weight == 1.0));
        let both = read(&["a=3", "b.tune=1"]).unwrap();
        assert_eq!((both[0].weight, both[1].weight), (3.0, 1.0));
        assert!(read(&["models/a.tune=1", "c.tune=1"]).unwrap_err().contains("there is no such artifact"));
        assert!(read(&["a=1", "a.tune=1"]).unwrap_err().contains("a weight already"));
        assert!(read(&["a=1"]).unwrap_err().contains("b.tune has no weight"));
        for bad in ["a", "a=0", "a=-1", "a=inf", "a=NaN", "=1"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
