struct L;
struct V(String);
impl<'a> log::kv::VisitSource<'a> for V { fn visit_pair(&mut self, k: log::kv::Key<'a>, v: log::kv::Value<'a>) -> Result<(), log::kv::Error> { self.0 += &format!(" {k}={v}"); Ok(()) } }
impl log::Log for L { fn enabled(&self, _: &log::Metadata) -> bool { true } fn log(&self, r: &log::Record) { let mut v = V(String::new()); let _ = r.key_values().visit(&mut v); eprintln!("LOG {} {}", r.args(), v.0); } fn flush(&self) {} }
#[test]
fn one() {
    log::set_logger(&L).unwrap(); log::set_max_level(log::LevelFilter::Debug);
    let seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    wsteady::sim::run(seed, 3000, false);
}
