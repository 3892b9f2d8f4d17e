//! A small disk of its own for one box: it fills up, runs out of inodes, fails, and loses its power.
//!
//! An ext4 file system on a partition of a loop device over a file. Needs root. It fails by shrinking the partition below
//! the mounted file system: all that lies behind is then an error (EIO) to the kernel, and there again when it grows. It
//! loses its power by ext4's own shutdown without flushing: what was not synced is gone, as `FS_IOC_SHUTDOWN` promises.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::{output_of, program};

const SECTOR: u64 = 512;
/// In front of the partition.
const OFFSET: u64 = 2048;
/// Behind it the disk is gone when it fails: not even the superblock is whole.
const FAILED_SECTORS: u64 = 4;
/// `FS_IOC_SHUTDOWN` with `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

pub struct SmallDisk {
    dir: TempDir,
    device: String,
    sectors: u64,
    ballast: std::sync::atomic::AtomicU32,
}

fn tool(name: &str) -> Command {
    Command::new(program(name))
}

impl SmallDisk {
    /// With so many MiB; `more` goes to mkfs.
    pub fn new(mib: u64, more: &[&str]) -> SmallDisk {
        let ours = fs::metadata("/proc/self").expect("/proc is mounted").uid();
        assert_eq!(ours, 0, "a test of a real small disk mounts one: run it as root");
        let dir = TempDir::new().expect("a temporary folder can be made");
        let image = dir.path().join("image");
        let sectors = mib * 1024 * 1024 / SECTOR;
        let file = File::create(&image).expect("the folder is ours");
        file.set_len((sectors + OFFSET) * SECTOR).expect("a sparse file takes no room");
        let device = output_of(tool("losetup").args(["--find", "--show", "--partscan"]).arg(&image));
        let device = String::from_utf8(device).expect("a device's name").trim().to_owned();
        let disk = SmallDisk { dir, device, sectors, ballast: 0.into() };
        fs::create_dir(disk.path()).expect("the folder is ours");
        output_of(tool("addpart").args([&disk.device, "1", &OFFSET.to_string(), &sectors.to_string()]));
        output_of(
            tool("mkfs.ext4").args(["-q", "-m", "0", "-E", "lazy_itable_init=0"]).args(more).arg(disk.partition()),
        );
        disk.mount();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    fn partition(&self) -> String {
        format!("{}p1", self.device)
    }

    fn mount(&self) {
        output_of(tool("mount").arg(self.partition()).arg(self.path()));
    }

    fn resize(&self, sectors: u64) {
        output_of(tool("resizepart").args([&self.device, "1", &sectors.to_string()]));
    }

    /// Every access is an error from now on.
    pub fn fail(&self) {
        self.resize(FAILED_SECTORS);
    }

    pub fn heal(&self) {
        self.resize(self.sectors);
    }

    /// What was not synced is gone, at once. Nobody can use it until [`SmallDisk::mount_again`].
    pub fn cut_power(&self) {
        output_of(tool("python3").args(["-c", SHUTDOWN]).arg(self.path()));
    }

    /// As the next start of the machine does, the journal replayed; with a check of the file system where it `failed`.
    pub fn mount_again(&self, failed: bool) {
        output_of(tool("umount").arg(self.path()));
        self.await_release();
        if failed {
            // 1: there were faults, and they are mended
            let checked = tool("e2fsck").args(["-f", "-y"]).arg(self.partition()).output().expect("it runs");
            assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
        }
        self.mount();
    }

    /// A mount namespace that somebody makes in between holds the file system a while longer, and a mount would then join
    /// the one that has no power. Nothing tells when the kernel lets it go: its device is asked for.
    fn await_release(&self) {
        let begun = Instant::now();
        let alone = || OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(self.partition());
        while let Err(held) = alone() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}: {held}", self.partition());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn free(&self) -> (u64, u64) {
        let facts = statvfs(&self.path()).expect("it is mounted");
        (facts.blocks_available() * facts.fragment_size(), facts.files_available())
    }

    fn next_ballast(&self) -> PathBuf {
        let next = self.ballast.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        self.path().join(format!("ballast-{next}"))
    }

    /// Leaves so many bytes free, or somewhat more. In one step: whoever fills slowly eats what the box gives free.
    pub fn fill_but(&self, left: u64) {
        let file = File::create(self.next_ballast()).expect("there is an inode left");
        let wanted = self.free().0.saturating_sub(left);
        let filled = posix_fallocate(&file, 0, i64::try_from(wanted).expect("a small disk"));
        // the map of the file needs blocks, too: with the last of them it ends in ENOSPC, and has taken what there was
        assert!(filled.is_ok() || left == 0, "{filled:?}: {:?} are free", self.free());
    }

    /// Leaves so many inodes free.
    pub fn fill_inodes_but(&self, left: u64) {
        while self.free().1 > left {
            File::create(self.next_ballast()).expect("there are inodes left");
        }
    }

    /// What [`SmallDisk::fill_but`] and [`SmallDisk::fill_inodes_but`] put there.
    pub fn clear(&self) {
        let files = fs::read_dir(self.path()).expect("it is mounted").flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ballast-"));
        files.filter(ours).for_each(|path| fs::remove_file(path).expect("it is ours"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The box may still hold it when a test fails; the kernel lets it go with the last file.
        let quietly = |command: &mut Command| drop(command.output());
        self.heal();
        quietly(tool("umount").arg("--lazy").arg(self.path()));
        quietly(tool("losetup").args(["--detach", &self.device]));
    }
}

/// Finished segments below a spool, by their path in it. What is renamed or carried away meanwhile is left out.
pub fn shelved(state: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let finished = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "ts");
    let tasks = below(&state.join("spool")).flat_map(|folder| below(&folder).collect::<Vec<_>>());
    tasks.filter(finished).filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}
