//! A static plan allocates nothing after its first run, on any thread it uses.

use crate::execute::LIMITS;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use tunewright::execute::{Configs, Plan, pool};
use tunewright::graph::text;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes this thread asked for and has not given back, and the most that ever was.
    static LIVE: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

fn count() {
    // A thread that is being torn down has no counter any more; it is not measured.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

fn hold(bytes: i64) {
    let _ = LIVE.try_with(|live| {
        let (now, most) = live.get();
        live.set((now + bytes, most.max(now + bytes)));
    });
}

/// The most bytes that `run` held at a time, on this thread.
pub fn peak_bytes(run: impl FnOnce()) -> i64 {
    let before = LIVE.with(Cell::get).0;
    LIVE.with(|live| live.set((before, before)));
    run();
    LIVE.with(Cell::get).1 - before
}

/// Allocations of `run`, on this thread.
pub fn count_of(run: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    run();
    COUNT.with(Cell::get) - before
}

// SAFETY: passes every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size() as i64);
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        hold(-(layout.size() as i64));
        // SAFETY: the caller's duty is the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        hold(layout.size() as i64);
        // SAFETY: the caller's duty is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        hold(size as i64 - layout.size() as i64);
        // SAFETY: the caller's duty is the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of the second and third run of a plan, in a pool of `units`, on all its threads.
pub fn of_steady_runs(plan: Plan, units: u32) -> u64 {
    let pool = pool(units).expect("threads");
    let mut plan = plan.in_pool(pool.clone());
    let sizes = |ports: Vec<usize>| ports.into_iter().map(|bytes| vec![0u64; bytes.div_ceil(8)]).collect::<Vec<_>>();
    let bytes = |port: &tunewright::execute::Port| {
        port.ty.fixed_shape().expect("static").iter().product::<usize>() * port.ty.dtype().expect("typed").bytes()
    };
    let (in_bytes, out_bytes): (Vec<_>, Vec<_>) = (plan.inputs().map(bytes).collect(), plan.outputs().map(bytes).collect());
    let (inputs, mut outputs) = (sizes(in_bytes.clone()), sizes(out_bytes.clone()));
    let inputs: Vec<&[u8]> = inputs.iter().zip(&in_bytes).map(|(words, &n)| &bytemuck::cast_slice(words)[..n]).collect();
    let mut outputs: Vec<&mut [u8]> =
        outputs.iter_mut().zip(&out_bytes).map(|(words, &n)| &mut bytemuck::cast_slice_mut(words)[..n]).collect();
    let counts = || {
        let sum = AtomicU64::new(0);
        pool.broadcast(|_| {
            sum.fetch_add(COUNT.with(Cell::get), Ordering::Relaxed);
        });
        sum.into_inner()
    };
    pool.install(|| plan.run_into(&inputs, &mut outputs)).expect("the plan runs");
    let overhead = (0..2).map(|_| counts()).collect::<Vec<_>>();
    let before = counts();
    pool.install(|| {
        for _ in 0..2 {
            plan.run_into(&inputs, &mut outputs).expect("the plan runs");
        }
    });
    counts() - before - (overhead[1] - overhead[0])
}

#[test]
fn a_plan_of_products_allocates_nothing() {
    let graph = text::parse(
        "
        input %x: f32[37,64]
        $w: f32[64,48] = fill(1)
        $b: f32[48] = fill(2)
        $v: f32[48,5] = fill(3)
        %h: f32[37,48] columns16 = gemm(%x, $w, $b) epilogue=\"bias+relu\"
        %y: f32[37,5] = gemm(%h, $v)
        output %y as \"y\"",
    );
    let plan = Plan::compile(&graph.expect("the graph parses"), &Configs::new(), &LIMITS).expect("the graph compiles");
    assert_eq!(of_steady_runs(plan, 2), 0);
}

/// The shipped model, and a deep one where the shared models are.
#[test]
fn models_allocate_nothing_after_their_first_run() {
    let mut paths = vec![crate::shipped::mnist_cnn()];
    paths.extend(crate::shared::models().map(|folder| folder.join("resnet18.onnx")));
    for path in paths {
        let plan = crate::correct::plan(&path, 1).expect("the model compiles");
        assert!(plan.is_static());
        assert_eq!(of_steady_runs(plan, 2), 0, "{}", path.display());
    }
}
