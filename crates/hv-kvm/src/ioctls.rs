//! The few calls of KVM that kvm-ioctls does not have, or not in the form needed here.

use kvm_bindings::{
    KVMIO, kvm_ioeventfd, kvm_ioeventfd_flag_nr_deassign, kvm_ioeventfd_flag_nr_pio, kvm_irqfd, kvm_stats_desc,
    kvm_stats_header,
};
use kvm_ioctls::VmFd;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};

ioctl_iow_nr!(KVM_IRQFD, KVMIO, 0x76, kvm_irqfd);
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// `KVM_IRQFD_FLAG_DEASSIGN`.
const IRQFD_DEASSIGN: u32 = 1;

/// Whether a connection is made or ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Assign {
    /// Make it.
    Yes,
    /// End it.
    No,
}

/// `KVM_IOEVENTFD` without a value to match: writes of `size` bytes (0: any size) to `address` signal `eventfd`.
pub fn ioeventfd(vm: &VmFd, address: hv::IoAddress, size: u8, eventfd: RawFd, assign: Assign) -> io::Result<()> {
    let (addr, space) = match address {
        hv::IoAddress::Port(port) => (u64::from(port), 1 << kvm_ioeventfd_flag_nr_pio),
        hv::IoAddress::Mmio(address) => (address, 0),
    };
    let flags = space | if assign == Assign::No { 1 << kvm_ioeventfd_flag_nr_deassign } else { 0 };
    let request = kvm_ioeventfd { addr, len: u32::from(size), fd: eventfd, flags, ..Default::default() };
    // SAFETY: the kernel reads one `kvm_ioeventfd`, which the number of the call says, and checks all of it.
    check(unsafe { ioctl_with_ref(vm, KVM_IOEVENTFD(), &request) })
}

/// `KVM_IRQFD`: signals on `eventfd` raise `gsi`.
pub fn irqfd(vm: &VmFd, eventfd: RawFd, gsi: u32, assign: Assign) -> io::Result<()> {
    let fd = u32::try_from(eventfd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    let flags = if assign == Assign::No { IRQFD_DEASSIGN } else { 0 };
    let request = kvm_irqfd { fd, gsi, flags, ..Default::default() };
    // SAFETY: as for `ioeventfd`.
    check(unsafe { ioctl_with_ref(vm, KVM_IRQFD(), &request) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One of the counters that KVM keeps of a vCPU, read through its binary statistics (Linux 5.14 and newer).
pub struct Statistic {
    file: File,
    position: u64,
}

impl Statistic {
    /// The counter called `name`; `None` where the kernel has no such statistics.
    pub fn find(vcpu: &impl AsRawFd, name: &str) -> Option<Self> {
        // SAFETY: the call takes no argument and returns a new file descriptor or -1.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made for us and nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut header = [0; size_of::<kvm_stats_header>()];
        file.read_exact_at(&mut header, 0).ok()?;
        // name_size, num_desc, desc_offset and data_offset of `kvm_stats_header`.
        let [_, name_size, count, _, descriptors, data] =
            std::array::from_fn(|field| u64::from(u32_at(&header, 4 * field)));
        let size = size_of::<kvm_stats_desc>() as u64 + name_size;
        let mut descriptor = vec![0; usize::try_from(size).ok()?];
        for index in 0..count {
            file.read_exact_at(&mut descriptor, descriptors + index * size).ok()?;
            let (fields, text) = descriptor.split_at(size_of::<kvm_stats_desc>());
            if text.split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
                return Some(Statistic { file, position: data + u64::from(u32_at(fields, 8)) });
            }
        }
        None
    }

    /// What it counts now.
    pub fn read(&self) -> Option<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, self.position).ok()?;
        Some(u64::from_ne_bytes(value))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(value)
}
