//! What serving costs beside the kernels: a model that does nothing through a worker, from being submitted to the start of the run, and the way
//! of a tensor into another process, by shared memory and by a socket.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use kernels::Tensor;
use schema::Batch;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;
use tunewright::artifact::{Bound, Contents, write};
use tunewright::graph::text;
use tunewright::runtime::{Request, Runtime};
use tunewright::worker::segment::{Segment, Sizes};

fn nothing(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("nothing.tune");
    let graph = text::parse("input %x: f32[1,4]\n%y: f32[1,4] = Identity(%x)\noutput %y as \"y\"").expect("the text is a graph");
    let graphs = vec![Bound { batch: Batch::ONE, dims: vec![], graph }];
    write(&path, &Contents::untuned("nothing", graphs)).expect("it is written");
    let runtime = Runtime::builder().artifact(&path).policy("greedy").open().expect("it opens");
    let request = || Request::new("nothing").input("x", Tensor::new(vec![1, 4], vec![0f32; 4]));
    c.bench_function("serve/call/nothing", |b| b.iter(|| runtime.run(black_box(request())).expect("it runs")));
    c.bench_function("serve/submit_to_start", |b| {
        b.iter_custom(|rounds| {
            let waited = |_| runtime.run(request()).expect("it runs").decision.waited;
            (0..rounds).map(waited).sum::<Duration>()
        });
    });
}

/// A peer that answers each message of one byte; `read` takes a tensor in before.
fn peer(mut read: impl FnMut(&mut UnixStream) -> bool + Send + 'static) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    std::thread::spawn(move || {
        let mut go = [0];
        while theirs.read_exact(&mut go).is_ok() && read(&mut theirs) && theirs.write_all(&go).is_ok() {}
    });
    ours
}

fn hand_off(c: &mut Criterion) {
    let mut group = c.benchmark_group("serve/hand_off");
    for (name, bytes) in [("0.6 MB", 600_000usize), ("6 MB", 6_000_000), ("64 MB", 64_000_000)] {
        let tensor = vec![1u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut buffer = vec![0u8; bytes];
        let mut socket = peer(move |socket| {
            let read = socket.read_exact(&mut buffer).is_ok();
            black_box(buffer.last());
            read
        });
        group.bench_function(BenchmarkId::new("socket", name), |b| {
            b.iter(|| {
                socket.write_all(&[1]).and_then(|()| socket.write_all(black_box(&tensor))).expect("the peer reads");
                socket.read_exact(&mut [0]).expect("the peer answers");
            });
        });
        let sizes = Sizes { inputs: vec![bytes as u64], ..Sizes::default() };
        let (mut segment, file) = Segment::create(&sizes).expect("memory");
        let mut theirs = Segment::open(&file, &sizes).expect("the same memory");
        let mut socket = peer(move |_| {
            black_box(theirs.parts().inputs[0].last());
            true
        });
        let mut ask = move || {
            socket.write_all(&[1]).expect("the peer reads");
            socket.read_exact(&mut [0]).expect("the peer answers");
        };
        // As requests go: written once, where their batch is put together.
        group.bench_function(BenchmarkId::new("segment", name), |b| {
            b.iter(|| {
                segment.parts().inputs[0].copy_from_slice(black_box(&tensor));
                ask();
            });
        });
        // What lies there already.
        group.bench_function(BenchmarkId::new("segment, in place", name), |b| b.iter(&mut ask));
    }
    group.finish();
}

criterion_group!(serve, nothing, hand_off);

fn main() -> ExitCode {
    // Workers are this program executed again.
    if let Some(code) = tunewright::worker::serve_if_asked() {
        return code;
    }
    serve();
    Criterion::default().configure_from_args().final_summary();
    ExitCode::SUCCESS
}
