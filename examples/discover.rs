//! cargo run --example discover
//!
//! Finds the servers of a directory, tries both ways to each, and says what works and why.

use std::error::Error;
use std::time::{Duration, Instant};

use lapwing::discovery::{Entry, Trust, list};
use lapwing::probe::{Category, ProbeOptions, probe};
use lapwing::{Server, ServerOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let info_dir = directory.path().join("info");
    let mut servers = Vec::new();
    for name in ["both", "only-memory", "only-socket"] {
        let mut options = ServerOptions::new(name.parse()?);
        options.info_dir.clone_from(&info_dir);
        options.shared_memory = name != "only-socket";
        if name == "only-memory" {
            options.listen.clear();
        }
        let mut server = Server::start(options)?;
        server.publisher().publish(name.as_bytes())?;
        servers.push(server);
    }
    std::fs::write(info_dir.join("broken.toml"), "format = ")?;

    let deadline = Instant::now() + Duration::from_secs(2);
    let mut categories = Vec::new();
    for entry in list(&info_dir, &Trust::default())? {
        match entry {
            Entry::Server(found) => {
                let report = probe(&found, &ProbeOptions { deadline, last: 1 });
                let (name, category, reason) = (&report.name, report.category, &report.reason);
                println!("{name:12} {category:10} {} {reason}", report.state);
                assert_eq!(report.messages[0].payload, name.as_bytes());
                categories.push(category);
            }
            Entry::Problem { path, reason } => println!("{:?}: {reason}", path.file_name().unwrap_or_default()),
        }
    }
    assert_eq!(categories, [Category::Host, Category::Container, Category::Remote]);
    Ok(())
}
