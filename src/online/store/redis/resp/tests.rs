#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn commands_are_written_as_redis_reads_them() {
    let mut pipeline = Pipeline::default();
    pipeline.begin(3);
    pipeline.arg(b"HGET");
    pipeline.key(b"ab\r\n", b"p");
    pipeline.arg(b"");
    pipeline.begin(1);
    pipeline.arg(b"PING");
    assert_eq!(pipeline.len(), 2);
    assert_eq!(pipeline.key_of(0), b"ab\r\np");
    assert_eq!(pipeline.key_of(1), b"");
    assert_eq!(pipeline.command(1), b"*1\r\n$4\r\nPING\r\n");
    assert_eq!(
        pipeline.into_bytes(),
        &b"*3\r\n$4\r\nHGET\r\n$5\r\nab\r\np\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n"[..]
    );
}

#[test]
fn the_end_of_a_reply_is_found_however_it_arrives() {
    let replies: &[&[u8]] = &[
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":-12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+x\r\n",
    ];
    for reply in replies {
        let mut whole = b"xx".to_vec();
        whole.extend_from_slice(reply);
        let end = whole.len();
        whole.extend_from_slice(b"+next\r\n");
        for step in 1..=4 {
            let mut scanner = Scanner::new(2);
            let mut have = 2;
            let found = loop {
                match scanner.end(&whole[..have]).unwrap() {
                    Progress::Ends(at) => break at,
                    Progress::Wants(at) => {
                        assert!(at > have && at <= end, "{reply:?}");
                        have = (have + step).min(whole.len());
                    }
                }
            };
            assert_eq!(found, end, "{reply:?}");
        }
    }
    for damaged in ["x\r\n", "$a\r\n", "$\r\n", "\r\n", "*99999999999999999999999\r\n"] {
        assert!(Scanner::new(0).end(damaged.as_bytes()).is_err(), "{damaged:?}");
    }
}

#[test]
fn replies_are_walked_through() {
    let frame = b"*4\r\n$3\r\nabc\r\n$-1\r\n:7\r\n*1\r\n+x\r\n";
    let mut walk = Walk::new(frame);
    assert_eq!(walk.array().unwrap(), 4);
    assert_eq!(walk.bytes().unwrap(), b"abc");
    assert_eq!(walk.next().unwrap(), Part::Nil);
    assert_eq!(walk.int().unwrap(), 7);
    walk.skip().unwrap();
    assert!(walk.next().is_err());
    let error = Walk::new(b"-NOAUTH Authentication required.\r\n")
        .int()
        .unwrap_err();
    assert!(error.hint_text().unwrap().contains("password"), "{error:?}");
    assert_eq!(error_of(b"-MOVED 1 a:1\r\n"), Some("MOVED 1 a:1"));
    assert_eq!(error_of(b"+OK\r\n"), None);
}
