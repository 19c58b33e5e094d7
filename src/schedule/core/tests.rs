use super::*;
use crate::schedule::testing::{curve, index, placed, reference};
use crate::schedule::{Engines, FleetDevice, Why, policy};
use schema::Share;

const MS: u64 = 1_000_000;

fn share(percent: f64) -> Share {
    Share::percent(percent).unwrap()
}

/// One device with copy engines and one without; workers of the whole, and of halves on the second.
fn fleet() -> Fleet {
    let halves = vec![Share::WHOLE, share(50.0), share(50.0)];
    Fleet {
        devices: vec![
            FleetDevice { engines: Engines::Two, gap: Nanos(0), workers: vec![Share::WHOLE], overlaps: Vec::new() },
            FleetDevice { engines: Engines::None, gap: Nanos(MS), workers: halves, overlaps: Vec::new() },
        ],
    }
}

/// Model 0 runs on both devices, model 1 on the halves of the second only.
fn records() -> Index {
    index(&[
        reference(&[1, 2, 4, 8], 0.2),
        placed(curve(&[1, 4], |b| (20 + b) * MS), 0, 1, 100.0),
        placed(curve(&[1, 4], |b| (35 + b) * MS), 0, 1, 50.0),
        placed(curve(&[1], |_| 5 * MS), 1, 1, 50.0),
    ])
}

fn core(name: &str, limits: Limits) -> Core {
    Core::new(&fleet(), Arc::new(records()), limits, policy(name).unwrap()).unwrap()
}

fn wish(model: u16, deadline: Option<u64>) -> Wish {
    let deadline = deadline.map_or(Nanos::NEVER, Nanos);
    Wish { model: ModelId(model), rows: Batch::ONE, deadline, priority: Priority::default() }
}

fn start(core: &mut Core, now: u64) -> (RunId, Decision) {
    match core.step(Nanos(now)) {
        Some(Action::Start { run, decision }) => (run, decision),
        other => panic!("a start was expected at {now}, found {other:?}"),
    }
}

fn finish(core: &mut Core, now: u64, run: RunId, decision: &Decision) -> bool {
    let spent = Spent { stages: decision.stages, gap: decision.gap, disturbed: false };
    core.on(Nanos(now), Event::Finished { run, spent: Some(spent) }).unwrap()
}

#[test]
fn a_decision_says_what_was_predicted_and_why_rivals_lost() {
    let mut core = core("fastest", Limits::default());
    core.submit(Nanos(0), wish(0, Some(30 * MS))).unwrap();
    let (run, decision) = start(&mut core, 0);
    assert_eq!((decision.device, decision.finish, decision.deadline), (DeviceId(0), Nanos(9 * MS), Nanos(30 * MS)));
    assert_eq!(core.requests_of(run).len(), 1);
    let whys: Vec<Why> = decision.rivals().map(|rival| rival.why).collect();
    assert_eq!(whys, [Why::Late(Nanos(6 * MS)), Why::Later(Nanos(12 * MS))]);
    // The device is in use: a second request goes elsewhere only when that is sooner.
    core.submit(Nanos(0), wish(0, None)).unwrap();
    assert_eq!(core.step(Nanos(0)), None);
    core.submit(Nanos(0), wish(0, None)).unwrap();
    core.submit(Nanos(0), wish(0, None)).unwrap();
    assert!(finish(&mut core, 9 * MS, run, &decision));
    assert_eq!(core.held(ModelId(0)), 3);
}

/// All requests of a model were late for a while: from then on one at a time shows that they no longer are, until more are let in again.
#[test]
fn a_model_that_was_late_is_not_refused_for_ever() {
    let (mut core, mut now) = (core("fastest", Limits::default()), 0);
    // Two requests at once, each answered so much later: whether the second was let in.
    let mut two = |takes: u64| {
        now += 1_000 * MS;
        let mut submit = || core.submit(Nanos(now), wish(1, Some(now + 20 * MS))).is_ok();
        assert!(submit(), "the only one is let in");
        let second = submit();
        let runs: Vec<_> = (0..=usize::from(second)).map(|_| start(&mut core, now)).collect();
        runs.iter().for_each(|(run, decision)| assert!(finish(&mut core, now + takes, *run, decision)));
        second
    };
    let late: Vec<bool> = (0..300).map(|_| two(60 * MS)).collect();
    assert!(late[0] && !late[299], "of two at once the second is refused in the end");
    assert!((0..500).any(|_| two(6 * MS)), "and let in again");
}

#[test]
fn a_policy_that_does_not_batch_is_predicted_without_batches() {
    for (name, accepts) in [("batcher", true), ("fixed", false)] {
        let mut core = core(name, Limits::default());
        // A request alone takes 9 ms on the first device, eight together 16 ms.
        let accepted = (0..10).filter(|_| core.submit(Nanos(0), wish(0, None)).is_ok()).count();
        assert_eq!(accepted, 10);
        assert_eq!(core.submit(Nanos(0), wish(0, Some(60 * MS))).is_ok(), accepts, "{name}");
    }
}

#[test]
fn what_has_no_worker_or_died_says_so() {
    let mut core = core("fastest", Limits::default());
    core.on(Nanos(0), Event::WorkerLost { worker: WorkerId(1) }).unwrap();
    core.submit(Nanos(0), wish(0, None)).unwrap();
    let (_, decision) = start(&mut core, 0);
    assert_eq!(decision.rivals().map(|rival| rival.why).collect::<Vec<_>>(), [Why::Later(Nanos(27 * MS)), Why::Away]);
    core.on(Nanos(1), Event::DeviceLost { device: DeviceId(1) }).unwrap();
    let run = core.state.runs.iter().position(|run| run.decision.is_some()).unwrap();
    let run = RunId { slot: run as u16, number: core.state.runs[run].number };
    finish(&mut core, 9 * MS, run, &decision);
    core.submit(Nanos(9 * MS), wish(0, None)).unwrap();
    let (_, decision) = start(&mut core, 9 * MS);
    assert_eq!(decision.rivals().map(|rival| rival.why).collect::<Vec<_>>(), [Why::Lost, Why::Lost]);
}

#[test]
fn a_lost_worker_gives_its_requests_back_and_its_answers_are_not_used() {
    let mut core = core("greedy", Limits::default());
    let first = core.submit(Nanos(0), wish(1, None)).unwrap();
    let (run, decision) = start(&mut core, 0);
    core.submit(Nanos(1), wish(1, None)).unwrap();
    core.on(Nanos(2), Event::WorkerLost { worker: decision.worker }).unwrap();
    assert_eq!(core.view(Nanos(2)).ledger().in_use(DeviceId(1)), 0);
    assert!(!finish(&mut core, 3, run, &decision), "the run is over: its requests wait again");
    assert!(!core.on(Nanos(3), Event::Passed { run, stage: Stage::Upload }).unwrap());
    assert_eq!(core.held(ModelId(1)), 2);
    let (again, decision) = start(&mut core, 3);
    assert_eq!(core.requests_of(again)[0].id, first, "it stands where it stood");
    // The run's room may be the same one: the old number still answers nothing.
    assert!(core.requests_of(run).is_empty() || run != again);
    assert!(finish(&mut core, 8 * MS, again, &decision));
}

#[test]
fn with_the_last_device_its_requests_are_refused_and_others_go_on() {
    let mut core = core("batcher", Limits::default());
    let request = core.submit(Nanos(0), wish(1, None)).unwrap();
    core.submit(Nanos(0), wish(0, None)).unwrap();
    core.on(Nanos(0), Event::DeviceLost { device: DeviceId(1) }).unwrap();
    assert_eq!(core.step(Nanos(0)), Some(Action::Refuse { request, refusal: Refusal::NoDevice }));
    assert_eq!(start(&mut core, 0).1.device, DeviceId(0));
    assert_eq!(core.submit(Nanos(1), wish(1, None)), Err(Refusal::NoDevice));
    core.on(Nanos(2), Event::WorkerReady { worker: WorkerId(2) }).unwrap();
    assert_eq!(core.submit(Nanos(2), wish(1, None)), Err(Refusal::NoDevice), "a lost device does not come back by itself");
}

#[test]
fn refusals_carry_a_time_after_which_there_is_room() {
    let limits = Limits { queue_len_max: 3, ..Limits::default() };
    let mut core = core("greedy", limits);
    assert_eq!(core.submit(Nanos(0), Wish { model: ModelId(9), ..wish(0, None) }), Err(Refusal::UnknownModel));
    assert_eq!(core.submit(Nanos(5), wish(0, Some(5))), Err(Refusal::DeadlinePassed));
    // Model 1 alone takes 5 ms and two run side by side.
    let Err(Refusal::TooLate { predicted, retry_after }) = core.submit(Nanos(5), wish(1, Some(4 * MS))) else { panic!() };
    assert!(predicted == Nanos(5 + 5 * MS) && retry_after > Nanos(0), "{predicted} {retry_after}");
    (0..3).for_each(|_| assert!(core.submit(Nanos(5), wish(1, None)).is_ok()));
    let Err(Refusal::QueueFull { retry_after }) = core.submit(Nanos(5), wish(1, None)) else { panic!() };
    assert!(retry_after >= Nanos(2 * MS) && retry_after < Nanos(100 * MS), "{retry_after}");
    core.close();
    assert_eq!(core.submit(Nanos(6), wish(0, None)), Err(Refusal::Closing));
    assert!(core.step(Nanos(6)).is_some(), "what was accepted is still served");
}

/// While all workers of a model are being replaced nobody can say when a request would run: one without a deadline waits, any other is
/// told to come again.
#[test]
fn requests_wait_for_workers_that_are_being_replaced() {
    let mut core = core("greedy", Limits { queue_len_max: 1, ..Limits::default() });
    for worker in [2, 3].map(WorkerId) {
        core.on(Nanos(0), Event::WorkerLost { worker }).unwrap();
    }
    let Err(Refusal::TooLate { retry_after, .. }) = core.submit(Nanos(1), wish(1, Some(90 * MS))) else { panic!() };
    assert_eq!(retry_after, Limits::default().patience);
    core.submit(Nanos(1), wish(1, None)).unwrap();
    assert!(matches!(core.submit(Nanos(1), wish(1, None)), Err(Refusal::QueueFull { .. })));
    assert_eq!(core.step(Nanos(1)), None);
    core.on(Nanos(2), Event::WorkerReady { worker: WorkerId(3) }).unwrap();
    assert_eq!(start(&mut core, 2).1.worker, WorkerId(3));
}

/// Two workers that own units in common never run at once, whatever their shares allow.
#[test]
fn workers_that_overlap_take_turns() {
    let halves = vec![share(50.0), share(50.0)];
    let device = |overlaps| FleetDevice { engines: Engines::None, gap: Nanos(0), workers: halves.clone(), overlaps };
    for (overlaps, at_once) in [(Vec::new(), true), (vec![(0, 1)], false)] {
        let fleet = Fleet { devices: vec![device(overlaps)] };
        let index = index(&[placed(curve(&[1], |_| 5 * MS), 0, 0, 50.0)]);
        let mut core = Core::new(&fleet, Arc::new(index), Limits::default(), policy("greedy").unwrap()).unwrap();
        (0..2).for_each(|_| assert!(core.submit(Nanos(0), wish(0, None)).is_ok()));
        let (run, decision) = start(&mut core, 0);
        assert_eq!(core.step(Nanos(0)).is_some(), at_once);
        finish(&mut core, 5 * MS, run, &decision);
        assert_eq!(core.step(Nanos(5 * MS)).is_some(), !at_once);
    }
}

#[test]
fn a_waiting_request_can_be_taken_back_and_one_in_flight_cannot() {
    let mut core = core("fastest", Limits::default());
    let ids: Vec<_> = (0..2).map(|_| core.submit(Nanos(0), wish(0, None)).unwrap()).collect();
    start(&mut core, 0);
    assert_eq!(
        (core.cancel(ids[0]), core.cancel(ids[1]), core.cancel(ids[1])),
        (Cancelled::TooLate, Cancelled::Forgotten, Cancelled::TooLate)
    );
    assert_eq!(core.held(ModelId(0)), 1);
}

#[test]
fn another_generation_changes_predictions_and_not_what_waits() {
    let mut core = core("fastest", Limits::default());
    core.submit(Nanos(0), wish(0, None)).unwrap();
    let slower = placed(curve(&[1], |_| 50 * MS), 0, 0, 100.0);
    let next = index(&[slower, placed(curve(&[1], |_| 5 * MS), 0, 1, 100.0), placed(curve(&[1], |_| MS), 1, 1, 50.0)]);
    core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
    assert_eq!(start(&mut core, 1).1.device, DeviceId(1));
    let other = index(&[curve(&[1], |_| 5)]);
    assert_eq!(core.on(Nanos(2), Event::Generation(Arc::new(other))), Err(IndexError::Layout("models")));
    assert_eq!(core.view(Nanos(2)).index().models().len(), 2, "the one in use stays");
}

/// A model may come with a new generation; one whose records are gone is refused.
#[test]
fn models_come_and_go_with_generations() {
    let mut core = core("greedy", Limits::default());
    let waiting = core.submit(Nanos(0), wish(1, None)).unwrap();
    let next = index(&[reference(&[1], 0.0), placed(curve(&[1], |_| MS), 2, 1, 100.0)]);
    core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
    assert_eq!(core.step(Nanos(1)), Some(Action::Refuse { request: waiting, refusal: Refusal::NoDevice }));
    core.submit(Nanos(1), wish(2, None)).unwrap();
    assert_eq!(start(&mut core, 1).1.model, ModelId(2));
}

/// Databases are replaced by others of the same number; what flew under the old records is no lesson for the new ones.
#[test]
fn runs_of_an_older_index_teach_nothing_even_under_an_equal_generation() {
    let mut core = core("fastest", Limits::default());
    core.submit(Nanos(0), wish(1, None)).unwrap();
    let (run, decision) = start(&mut core, 0);
    let next = index(&[reference(&[1], 0.0), placed(curve(&[1], |_| MS), 1, 1, 100.0)]);
    assert_eq!(next.generation(), core.view(Nanos(0)).index().generation());
    core.on(Nanos(1), Event::Generation(Arc::new(next))).unwrap();
    assert!(finish(&mut core, 5 * MS, run, &decision));
    assert_eq!(core.held(ModelId(1)), 0);
}

/// Gives up whatever waits.
struct Quitter;

impl Policy for Quitter {
    fn step(&mut self, view: &View<'_>) -> Step {
        let front = view.models().find_map(|model| view.queue(model).front());
        front.map_or(Step::Wait { until: Nanos::NEVER }, |front| Step::Refuse { request: front.id, retry_after: Nanos(7) })
    }
}

#[test]
fn what_a_policy_gives_up_is_answered() {
    let mut core = Core::new(&fleet(), Arc::new(records()), Limits::default(), Box::new(Quitter)).unwrap();
    let request = core.submit(Nanos(0), wish(0, None)).unwrap();
    let refusal = Refusal::Policy { retry_after: Nanos(7) };
    assert_eq!((core.step(Nanos(0)), core.step(Nanos(0))), (Some(Action::Refuse { request, refusal }), None));
    assert_eq!(core.held(ModelId(0)), 0);
}

#[test]
fn a_request_of_any_size_is_served_or_refused() {
    for name in ["batcher", "greedy", "fastest", "fixed", "knee"] {
        let mut core = core(name, Limits::default());
        let huge = Wish { rows: Batch::new(u32::MAX).unwrap(), ..wish(0, None) };
        core.submit(Nanos(0), huge).unwrap();
        core.submit(Nanos(0), huge).unwrap();
        assert!(core.submit(Nanos(0), Wish { deadline: Nanos(MS), ..huge }).is_err(), "{name}");
        let (_, decision) = start(&mut core, 0);
        assert_eq!((decision.rows, decision.requests), (u32::MAX, 1), "{name}");
    }
}

#[test]
fn a_change_of_share_costs_its_gap_which_is_measured() {
    let mut core = core("fixed:d1/50/1", Limits::default());
    core.submit(Nanos(0), wish(0, None)).unwrap();
    let (run, decision) = start(&mut core, 0);
    assert_eq!(decision.gap, Nanos(0), "the first run changes nothing");
    finish(&mut core, 36 * MS, run, &decision);
    core.policy = policy("fixed:d1/100/1").unwrap();
    core.policy.changed(&View { state: &core.state, now: Nanos(36 * MS) });
    core.submit(Nanos(36 * MS), wish(0, None)).unwrap();
    let (run, decision) = start(&mut core, 36 * MS);
    assert_eq!((decision.gap, decision.finish), (Nanos(MS), Nanos((36 + 1 + 21) * MS)));
    let spent = Spent { stages: decision.stages, gap: Nanos(0), disturbed: false };
    core.on(Nanos(60 * MS), Event::Finished { run, spent: Some(spent) }).unwrap();
    assert_eq!(core.view(Nanos(60 * MS)).ledger().gap(DeviceId(1)), Nanos(800_000));
}

#[test]
fn a_row_that_drifts_is_stale_and_predicted_anew() {
    let mut core = core("fastest", Limits::default());
    let mut now = 0;
    let mut alarms = Vec::new();
    for _ in 0..200 {
        core.submit(Nanos(now), wish(1, None)).unwrap();
        let (run, decision) = start(&mut core, now);
        let stages = Stages { compute: Nanos(8 * MS), ..Stages::default() };
        now += 8 * MS;
        core.on(Nanos(now), Event::Finished { run, spent: Some(Spent { stages, gap: decision.gap, disturbed: false }) }).unwrap();
        alarms.extend(core.take_alarms());
    }
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert!((alarms[0].ratio - 1.6).abs() < 1e-3 && alarms[0].model == ModelId(1));
    core.submit(Nanos(now), wish(1, None)).unwrap();
    let (_, decision) = start(&mut core, now);
    assert!(decision.stale && decision.stages.total().0.abs_diff(8 * MS) < MS / 10, "{decision:?}");
}

#[test]
fn what_was_disturbed_or_failed_teaches_nothing() {
    let mut core = core("fastest", Limits::default());
    for at in 0..200u64 {
        core.submit(Nanos(at * 100 * MS), wish(1, None)).unwrap();
        let (run, _) = start(&mut core, at * 100 * MS);
        let stages = Stages { compute: Nanos(50 * MS), ..Stages::default() };
        let spent = (at % 2 == 0).then_some(Spent { stages, gap: Nanos(0), disturbed: true });
        core.on(Nanos(at * 100 * MS + 50 * MS), Event::Finished { run, spent }).unwrap();
    }
    assert_eq!((core.take_alarms().count(), core.held(ModelId(1))), (0, 0));
    let row = RowId { curve: CurveId(3), row: 0 };
    assert_eq!(core.view(Nanos(0)).stages(row).total(), Nanos(5 * MS));
}

#[test]
fn a_fleet_of_other_devices_is_refused() {
    let one = Fleet { devices: fleet().devices[..1].to_vec() };
    let made = Core::new(&one, Arc::new(records()), Limits::default(), policy("greedy").unwrap());
    assert_eq!(made.err(), Some(IndexError::Layout("devices")));
}
