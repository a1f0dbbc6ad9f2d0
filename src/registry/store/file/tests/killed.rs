//! Writers that are killed, as processes.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
};

use super::{
    history::{add_one, ann, count, history_matches},
    *,
};

const ROUNDS: u128 = 25;
const PATH: &str = "THALI_TEST_REGISTRY";

#[tokio::test]
#[ignore = "runs until it is killed; started by the other test here"]
async fn a_writer_until_it_is_killed() {
    let store = FileStore::open(std::env::var_os(PATH).unwrap()).await.unwrap();
    loop {
        let state = add_one(&store, Some(&ann())).await.unwrap();
        tracing::info!(count = count(&state));
        // Past the test runner's capture of output.
        std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("made {}\n", count(&state)).as_bytes(),
        )
        .unwrap();
    }
}

#[tokio::test]
async fn kill_9_at_any_moment_leaves_a_state_and_its_history() {
    let directory = tempfile::tempdir().unwrap();
    let path = registry_path(&directory);
    let mut made = 0;
    for _ in 0..ROUNDS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg(concat!(module_path!(), "::a_writer_until_it_is_killed").trim_start_matches("thali::"))
            .env(PATH, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stderr.take().unwrap()).lines();
        let told = |line: &str| {
            line.strip_prefix("made ")
                .map(|number| number.parse::<usize>().unwrap())
        };
        let mut acknowledged = lines.by_ref().find_map(|line| told(&line.unwrap())).unwrap();
        // Somewhere within the next few writes.
        let moment = uuid::Uuid::new_v4().as_u128() % 20_000;
        thread::sleep(Duration::from_micros(moment.try_into().unwrap()));
        writer.kill().unwrap();
        writer.wait().unwrap();
        if let Some(last) = lines.map_while(Result::ok).filter_map(|line| told(&line)).last() {
            acknowledged = last;
        }
        let store = FileStore::open(&path).await.unwrap();
        let before = made;
        made = history_matches(&store).await;
        assert!(acknowledged > before);
        assert!(
            made == acknowledged || made == acknowledged + 1,
            "{acknowledged} {made}"
        );
    }
}
