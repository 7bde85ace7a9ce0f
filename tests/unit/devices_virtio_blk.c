/* SPDX-License-Identifier: MIT */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/log.h"

#include "devices/virtio_blk.h"
#include "tests/fakes/process.h"
#include "tests/fakes/virtio_driver.h"

#define EVENT_IDX VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define ALL (~EVENT_IDX) /* with it interrupts are where they are asked for */
#define SECTOR 512u
#define MIB (1ull << 20)
#define IMAGE_SIZE (12 * MIB)
#define NR_SECTORS (IMAGE_SIZE / SECTOR)
#define QUEUE_SIZE 256u
#define WAIT_MS 10000

/* Where the driver has what it sends, within its own memory. */
#define HEADER(i) (DRIVER_POOL + (i)*64u)
#define STATUS(i) (DRIVER_POOL + 0x10000 + (i))
#define TABLE (DRIVER_POOL + 0x20000)
#define DATA (2 * DRIVER_POOL)
#define NOWHERE 0x80000000ull

static struct virtio_driver driver;
static struct event_loop loop;
static struct virtio_blk blk;
static char path[64];
static int image; /* our own look at it */
static unsigned int fds_before;

/*
 * The kernel: what is submitted is looked at, and may be changed, or refused; and system calls that
 * fail once they are told to.
 */

static void (*tamper)(struct io_uring_sqe *sqe);
static bool submit_fails;
static unsigned int nr_submits, nr_operations[IORING_OP_LAST];
static int fail_init, fail_restrict, fail_enable, fail_register, fail_open, fail_lock,
	fail_statx, fail_mmap, fail_lseek;
static uint32_t direct_align; /* that statx tells of; 0: none, as it is asked to say so */
static bool tells_align;
/* What the file system is said to be; 0: it does not say. Files of the tests are elsewhere. */
static long file_system = EXT4_SUPER_MAGIC;
static int fail_pwritev;
static bool writes_in_part; /* the first iovec only */
/* What a block device says, to as many questions; 0: there is none. */
static struct {
	unsigned int nr_answers;
	uint32_t logical, physical, min_io, opt_io;
	int alignment;
} device;

int __real_virtq_await_kick(struct virtq *vq);
int __wrap_virtq_await_kick(struct virtq *vq);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __real_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
				      struct io_uring_params *p);
int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
				      struct io_uring_params *p);
int __real_io_uring_register_eventfd(struct io_uring *ring, int fd);
long __real_syscall(long number, int fd, unsigned int what, void *arg, unsigned int nr);
long __wrap_syscall(long number, int fd, unsigned int what, void *arg, unsigned int nr);
int __wrap_io_uring_register_eventfd(struct io_uring *ring, int fd);
int __real_open64(const char *name, int flags, ...);
int __wrap_open64(const char *name, int flags, ...);
int __real___open64_2(const char *name, int flags);
int __wrap___open64_2(const char *name, int flags);
int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
off_t __real_lseek64(int fd, off_t offset, int whence);
off_t __wrap_lseek64(int fd, off_t offset, int whence);
int __real_statx(int fd, const char *name, int flags, unsigned int mask, struct statx *st);
int __wrap_statx(int fd, const char *name, int flags, unsigned int mask, struct statx *st);
int __wrap_fstatfs64(int fd, struct statfs *fs);
ssize_t __real_pwritev64(int fd, const struct iovec *iov, int nr, off_t offset);
ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int nr, off_t offset);
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
void *__real_mmap64(void *at, size_t size, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t size, int prot, int flags, int fd, off_t offset);

static int fails(int error)
{
	errno = error;
	return -1;
}

static bool chains_come_and_go; /* what is seen to wait is gone when it is to be taken */
static unsigned int nr_awaits;

int __wrap_virtq_await_kick(struct virtq *vq)
{
	if (!chains_come_and_go)
		return __real_virtq_await_kick(vq);
	ck_assert_uint_le(++nr_awaits, QUEUE_SIZE); /* or it goes on for ever */
	return 1;
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	if (submit_fails)
		return -EAGAIN;
	nr_submits++;
	for (unsigned int i = *ring->sq.khead; i != ring->sq.sqe_tail; i++) {
		struct io_uring_sqe *sqe = &ring->sq.sqes[i & (*ring->sq.kring_entries - 1)];
		nr_operations[sqe->opcode]++;
		if (tamper)
			tamper(sqe);
	}
	return __real_io_uring_submit(ring);
}

int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
				      struct io_uring_params *p)
{
	return fail_init ? fail_init : __real_io_uring_queue_init_params(entries, ring, p);
}

/* Of the kernel's calls that have no function of their own here. */
long __wrap_syscall(long number, int fd, unsigned int what, void *arg, unsigned int nr)
{
	int error = what == IORING_REGISTER_RESTRICTIONS ? fail_restrict : fail_enable;

	return error ? fails(error) : __real_syscall(number, fd, what, arg, nr);
}

int __wrap_io_uring_register_eventfd(struct io_uring *ring, int fd)
{
	return fail_register ? fail_register : __real_io_uring_register_eventfd(ring, fd);
}

int __wrap_open64(const char *name, int flags, ...)
{
	return fail_open ? fails(fail_open) : __real_open64(name, flags);
}

/* What a fortified open() without a mode is. */
int __wrap___open64_2(const char *name, int flags)
{
	return fail_open ? fails(fail_open) : __real___open64_2(name, flags);
}

int __wrap_fcntl64(int fd, int command, ...)
{
	va_list args;

	va_start(args, command);
	void *p = va_arg(args, void *);
	va_end(args);
	return fail_lock ? fails(fail_lock) : __real_fcntl64(fd, command, p);
}

off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
	return fail_lseek ? fails(fail_lseek) : __real_lseek64(fd, offset, whence);
}

int __wrap_statx(int fd, const char *name, int flags, unsigned int mask, struct statx *st)
{
	if (fail_statx)
		return fails(fail_statx);
	if (!tells_align)
		return __real_statx(fd, name, flags, mask, st);
	*st = (struct statx){ .stx_mask = STATX_DIOALIGN,
			      .stx_dio_mem_align = direct_align,
			      .stx_dio_offset_align = direct_align };
	return 0;
}

int __wrap_fstatfs64(int fd, struct statfs *fs)
{
	(void)fd;
	*fs = (struct statfs){ .f_type = file_system };
	return file_system ? 0 : fails(ENOSYS);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *iov, int nr, off_t offset)
{
	if (fail_pwritev)
		return fails(fail_pwritev);
	return __real_pwritev64(fd, iov, writes_in_part ? 1 : nr, offset);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list args;

	va_start(args, request);
	void *p = va_arg(args, void *);
	va_end(args);
	const void *answer = request == BLKSSZGET     ? &device.logical
			     : request == BLKPBSZGET  ? &device.physical
			     : request == BLKALIGNOFF ? (void *)&device.alignment
			     : request == BLKIOMIN    ? &device.min_io
			     : request == BLKIOOPT    ? &device.opt_io
						      : NULL;
	if (!answer)
		return __real_ioctl(fd, request, p);
	if (device.nr_answers == 0)
		return fails(ENOTTY);
	device.nr_answers--;
	memcpy(p, answer, 4);
	return 0;
}

void *__wrap_mmap64(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
	if (fail_mmap) {
		errno = fail_mmap;
		return MAP_FAILED;
	}
	return __real_mmap64(at, size, prot, flags, fd, offset);
}

/* The image: each sector is full of its number's low byte. */

static void make_image(const char *folder)
{
	static uint8_t bytes[IMAGE_SIZE];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i / SECTOR);
	(void)snprintf(path, sizeof(path), "%s/ballast-blk-XXXXXX", folder);
	image = mkstemp(path);
	ck_assert_int_ge(image, 0);
	ck_assert_int_eq(fd_write_at(image, bytes, sizeof(bytes), 0), 0);
}

/* A byte of it, as the host sees it. */
static uint8_t byte_at(uint64_t offset)
{
	uint8_t byte = 0;

	ck_assert_int_eq(fd_read_at(image, &byte, 1, offset), 0);
	return byte;
}

static uint64_t allocated(void)
{
	struct stat st;

	ck_assert_int_eq(fstat(image, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void make_world(const char *folder)
{
	process_keep_log();
	fds_before = process_nr_fds();
	make_image(folder);
	driver_init(&driver);
	ck_assert_int_eq(event_loop_init(&loop), 0);
}

static int init(struct virtio_blk_options options, unsigned int nr_queues)
{
	options.path = options.path ? options.path : path;
	int r = virtio_blk_init(&blk, &driver.map, &loop, &options, nr_queues);
	if (r >= 0)
		driver_take(&driver, &blk.virtio);
	return r;
}

static void setup_with(struct virtio_blk_options options, uint64_t features)
{
	make_world("/dev/shm");
	ck_assert_int_eq(init(options, 2), 0);
	driver_start(&driver, features);
}

static void setup(void)
{
	setup_with((struct virtio_blk_options){ .serial = "number-1" }, ALL);
}

static void teardown(void)
{
	virtio_blk_finish(&blk);
	virtio_blk_finish(&blk);
	if (path[0])
		(void)unlink(path);
	fd_close(&image);
	event_loop_finish(&loop);
	driver_finish(&driver);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
}

/* One event of the loop, if there is one within that time. */
static bool run_once(int timeout_ms)
{
	struct epoll_event e;

	int n = epoll_wait(loop.epoll_fd, &e, 1, timeout_ms);
	if (n < 0 && errno == EINTR) /* the ring's work may do that */
		return true;
	if (n != 1)
		return false;
	struct event_source *source = e.data.ptr;
	source->ready(source, e.events);
	return true;
}

/* What is to happen at once does, in a few of them. */
static void run_a_while(void)
{
	for (unsigned int i = 0; i < 20 && run_once(20); i++)
		;
}

/* Requests, by number */

static void write_header(unsigned int i, uint32_t type, uint64_t sector)
{
	*(struct virtio_blk_outhdr *)driver_at(&driver, HEADER(i), 16) =
		(struct virtio_blk_outhdr){ .type = htole32(type), .sector = htole64(sector) };
	*(uint8_t *)driver_at(&driver, STATUS(i), 1) = 0xff;
}

static uint16_t offer(unsigned int queue, unsigned int i, uint32_t type, uint64_t sector,
		      gpa_t data, uint32_t size)
{
	const struct driver_buffer buffers[] = {
		{ HEADER(i), sizeof(struct virtio_blk_outhdr), false },
		{ data, size, type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID },
		{ STATUS(i), 1, true },
	};
	const struct driver_buffer no_data[] = { buffers[0], buffers[2] };

	write_header(i, type, sector);
	return size ? driver_add(&driver, queue, buffers, 3)
		    : driver_add(&driver, queue, no_data, 2);
}

static uint8_t status_of(unsigned int i)
{
	return *(uint8_t *)driver_at(&driver, STATUS(i), 1);
}

/* Until one comes back; how many bytes were written into it. */
static uint32_t wait_used(unsigned int queue)
{
	uint16_t head;
	uint32_t written;

	while (!driver_take_used(&driver, queue, &head, &written))
		ck_assert(run_once(WAIT_MS));
	return written;
}

static bool any_used(unsigned int queue)
{
	uint16_t head;
	uint32_t written;

	return driver_take_used(&driver, queue, &head, &written);
}

/* One request, from start to end; its status. */
static uint8_t request(uint32_t type, uint64_t sector, gpa_t data, uint32_t size)
{
	offer(0, 0, type, sector, data, size);
	driver_kick(&driver, 0);
	(void)wait_used(0);
	return status_of(0);
}

/* A chain of the test's own making, with header 0 and status 0; its status. */
static uint8_t send_chain(const struct driver_buffer *buffers, unsigned int nr,
			  uint32_t *ret_written)
{
	(void)driver_add(&driver, 0, buffers, nr);
	driver_kick(&driver, 0);
	*ret_written = wait_used(0);
	return status_of(0);
}

static void fill(gpa_t gpa, uint64_t size, uint8_t value)
{
	memset(driver_at(&driver, gpa, size), value, size);
}

static bool is(gpa_t gpa, uint64_t size, uint8_t value)
{
	const uint8_t *bytes = driver_at(&driver, gpa, size);

	return bytes[0] == value && memcmp(bytes, bytes + 1, size - 1) == 0;
}

/* Ranges of a discard or write-zeroes, one after the other. */
static void put_range(unsigned int i, uint64_t sector, uint32_t nr, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes *ranges = driver_at(&driver, DATA, 4096);

	ranges[i] = (struct virtio_blk_discard_write_zeroes){
		.sector = htole64(sector),
		.num_sectors = htole32(nr),
		.flags = htole32(flags),
	};
}

static uint8_t range_request(uint32_t type, unsigned int nr)
{
	return request(type, 0, DATA, nr * 16);
}

static uint64_t config64(unsigned int offset)
{
	return virtio_config_read(&blk.virtio, offset, 8);
}

static uint32_t config32(unsigned int offset)
{
	return (uint32_t)virtio_config_read(&blk.virtio, offset, 4);
}

static struct virtio_blk_figures figures(void)
{
	struct virtio_blk_figures f;

	virtio_blk_get_figures(&blk, &f);
	return f;
}

/* Features and config space, 1.2, 5.2.3 and 5.2.4 */

#define OFFSET(field) offsetof(struct virtio_blk_config, field)

START_TEST(it_is_a_disk)
{
	ck_assert_uint_eq(blk.virtio.device_id, VIRTIO_ID_BLOCK);
	ck_assert_uint_eq(blk.virtio.nr_queues, 2);
	ck_assert_uint_eq(blk.virtio.features & VIRTIO_FEATURE(VIRTIO_BLK_F_RO), 0);
	for (unsigned int i = 0; i < 2; i++)
		ck_assert_uint_eq(blk.virtio.queues[i].ring.max_size, QUEUE_SIZE);
	ck_assert_uint_eq(config64(OFFSET(capacity)), NR_SECTORS);
	ck_assert_uint_eq(config32(OFFSET(seg_max)), QUEUE_SIZE - 2);
	ck_assert_uint_eq(config32(OFFSET(blk_size)), 512);
	ck_assert_uint_eq(virtio_config_read(&blk.virtio, OFFSET(num_queues), 2), 2);
	ck_assert_uint_eq(config32(OFFSET(max_discard_sectors)), 1u << 21);
	ck_assert_uint_eq(config32(OFFSET(max_discard_seg)), VIRTIO_BLK_MAX_RANGES);
	ck_assert_uint_eq(config32(OFFSET(discard_sector_alignment)), 1);
	ck_assert_uint_eq(config32(OFFSET(max_write_zeroes_sectors)), 1u << 21);
	ck_assert_uint_eq(config32(OFFSET(max_write_zeroes_seg)), VIRTIO_BLK_MAX_RANGES);
	ck_assert_uint_eq(virtio_config_read(&blk.virtio, OFFSET(write_zeroes_may_unmap), 1),
			  1);
	ck_assert_uint_eq(blk.virtio.config_size, 60);
	virtio_config_write(&blk.virtio, 0, 8, 1); /* is not to be written */
	ck_assert_uint_eq(config64(OFFSET(capacity)), NR_SECTORS);
	process_expect_no_log();
}
END_TEST

static bool tells_topology(void)
{
	return blk.virtio.features & VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY);
}

/* A disk of 512-byte blocks in 4096-byte ones that begin with its block 7, striped by 64 KiB. */
START_TEST(a_block_devices_topology_is_told)
{
	make_world("/dev/shm");
	device.nr_answers = 5;
	device.logical = 512;
	device.physical = 4096;
	device.alignment = 7 * 512;
	device.min_io = 65536;
	device.opt_io = 4 * MIB;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	ck_assert(tells_topology());
	ck_assert_uint_eq(config32(OFFSET(blk_size)), 512);
	ck_assert_uint_eq(config32(OFFSET(physical_block_exp)), 3 | 7 << 8 | 128 << 16);
	ck_assert_uint_eq(config32(OFFSET(opt_io_size)), 8192);
	virtio_blk_finish(&blk);
	/* Partition at sector 63 of a RAID that likes 512 KiB. */
	device.nr_answers = 5;
	device.alignment = 961 * 512;
	device.min_io = 512 * 1024;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	ck_assert_uint_eq(config32(OFFSET(physical_block_exp)), 3 | 1 << 8 | 1024 << 16);
	virtio_blk_finish(&blk);
	device.min_io = 65536;
	/* It is counted in blocks of 4096 bytes. */
	device.nr_answers = 5;
	device.logical = 4096;
	device.alignment = 0;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	ck_assert_uint_eq(config32(OFFSET(blk_size)), 4096);
	ck_assert_uint_eq(config32(OFFSET(physical_block_exp)), 16 << 16);
	ck_assert_uint_eq(config32(OFFSET(opt_io_size)), 1024);
	process_expect_no_log();
	teardown();
}
END_TEST

/* Nothing rather than something wrong: aligned to nothing, in halves of blocks, too much for a field. */
START_TEST(a_topology_that_cannot_be_told_is_not)
{
	make_world("/dev/shm");
	device.nr_answers = 5;
	device.logical = 512;
	device.physical = 4096;
	device.alignment = -1;
	device.min_io = 65537 * 512;
	device.opt_io = 768;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	ck_assert(tells_topology());
	ck_assert_uint_eq(config32(OFFSET(physical_block_exp)), 0);
	ck_assert_uint_eq(config32(OFFSET(opt_io_size)), 0);
	virtio_blk_finish(&blk);
	device.physical = 6 * 512;
	device.alignment = 257 * 512;
	device.nr_answers = 5;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	ck_assert_uint_eq(config32(OFFSET(physical_block_exp)), 0);
	virtio_blk_finish(&blk);
	/* Who does not answer one question is not believed the others; a file answers none. */
	for (unsigned int nr = 0; nr < 5; nr++) {
		device.nr_answers = nr;
		ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
		ck_assert(!tells_topology());
		virtio_blk_finish(&blk);
	}
	process_expect_no_log();
	teardown();
}
END_TEST

/* Reads and writes */

START_TEST(what_is_written_is_there)
{
	fill(DATA, 4096, 0xaa);
	offer(0, 0, VIRTIO_BLK_T_OUT, 8, DATA, 4096);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 1);
	ck_assert_uint_eq(status_of(0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(byte_at(4095), 7);
	ck_assert_uint_eq(byte_at(4096), 0xaa);
	ck_assert_uint_eq(byte_at(8191), 0xaa);
	ck_assert_uint_eq(byte_at(8192), 16);
	offer(0, 1, VIRTIO_BLK_T_IN, 7, DATA + 8192, 1024);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 1025);
	ck_assert_uint_eq(status_of(1), VIRTIO_BLK_S_OK);
	ck_assert(is(DATA + 8192, 512, 7));
	ck_assert(is(DATA + 8192 + 512, 512, 0xaa));
	ck_assert(is(DATA + 8192 + 1024, 512, 0));
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 2);
	ck_assert_uint_eq(driver.nr_queue_interrupts[1], 0);
	struct virtio_blk_figures f = figures();
	ck_assert_uint_eq(f.nr_reads, 1);
	ck_assert_uint_eq(f.nr_writes, 1);
	ck_assert_uint_eq(f.bytes_read, 1024);
	ck_assert_uint_eq(f.bytes_written, 4096);
	ck_assert_uint_eq(f.nr_errors, 0);
	process_expect_no_log();
}
END_TEST

static int full = -1;

static void full_disk(struct io_uring_sqe *sqe)
{
	sqe->fd = full;
}

static void setup_on(const char *folder, long kind, struct virtio_blk_options options)
{
	make_world(folder);
	file_system = kind;
	ck_assert_int_eq(init(options, 2), 0);
	driver_start(&driver, ALL);
	memset(nr_operations, 0, sizeof(nr_operations));
}

START_TEST(what_is_in_memory_is_written_at_once)
{
	setup_on("/dev/shm", TMPFS_MAGIC, (struct virtio_blk_options){ 0 });
	for (unsigned int i = 0; i < 8; i++) {
		fill(DATA + i * 4096, 4096, (uint8_t)(0xa0 + i));
		offer(0, i, VIRTIO_BLK_T_OUT, i * 16, DATA + i * 4096, 4096);
	}
	driver_kick(&driver, 0);
	for (unsigned int i = 0; i < 8; i++) {
		ck_assert(any_used(0));
		ck_assert_uint_eq(status_of(i), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(byte_at(i * 8192), 0xa0 + i);
		ck_assert_uint_eq(byte_at(i * 8192 + 4095), 0xa0 + i);
		ck_assert_uint_eq(byte_at(i * 8192 + 4096), i * 16 + 8);
	}
	ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 1);
	ck_assert_uint_eq(figures().bytes_written, 8 * 4096);
	/* The event loop does not copy much. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, DATA, 256 << 10), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 1);
	ck_assert_uint_eq(byte_at((256 << 10) - 1), 0);
	/* Nor does it wait for a worker that has the file to itself: as if there were one. */
	blk.nr_running++;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, DATA, 4096), VIRTIO_BLK_S_OK);
	blk.nr_running--;
	ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 2);
	process_expect_no_log();
	teardown();
}
END_TEST

START_TEST(what_was_not_written_at_once_is_left_to_the_ring)
{
	const struct driver_buffer out[] = {
		{ HEADER(0), 16, false },
		{ DATA, 1000, false },
		{ DATA + 1000, 3096, false },
		{ STATUS(0), 1, true },
	};
	uint32_t written;

	setup_on("/dev/shm", TMPFS_MAGIC, (struct virtio_blk_options){ 0 });
	fill(DATA, 4096, 0xaa);
	writes_in_part = true;
	write_header(0, VIRTIO_BLK_T_OUT, 8);
	ck_assert_uint_eq(send_chain(out, nitems(out), &written), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 1);
	ck_assert_uint_eq(byte_at(4096 + 1000), 0xaa);
	ck_assert_uint_eq(byte_at(8191), 0xaa);
	ck_assert_uint_eq(byte_at(8192), 16);
	fail_pwritev = EINTR;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 16, DATA, 4096), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(byte_at(8192), 0xaa);
	process_expect_no_log();
	fail_pwritev = ENOSPC;
	full = open("/dev/full", O_RDWR | O_CLOEXEC);
	tamper = full_disk;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 4, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("a write at 2048: No space left on device");
	fd_close(&full);
	teardown();
}
END_TEST

START_TEST(what_may_be_slow_is_left_to_the_ring)
{
	const struct {
		const char *folder;
		long file_system;
		bool is_device;
		bool direct;
	} disks[] = {
		{ "/dev/shm", EXT4_SUPER_MAGIC, false, false },
		{ "/dev/shm", 0, false, false },
		{ "/dev/shm", TMPFS_MAGIC, true, false }, /* its node is on devtmpfs */
		{ "/var/tmp", TMPFS_MAGIC, false, true },
	};

	for (unsigned int i = 0; i < nitems(disks); i++) {
		device.nr_answers = disks[i].is_device ? 5 : 0;
		device.logical = 512;
		setup_on(disks[i].folder, disks[i].file_system,
			 (struct virtio_blk_options){ .direct = disks[i].direct });
		ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 8, DATA, 4096), VIRTIO_BLK_S_OK);
		ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 1);
		teardown();
	}
}
END_TEST

START_TEST(the_last_sector_can_be_had)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, NR_SECTORS - 1, DATA, 512), 0);
	ck_assert(is(DATA, 512, (uint8_t)(NR_SECTORS - 1)));
	fill(DATA, 512, 0x55);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, NR_SECTORS - 1, DATA, 512), 0);
	ck_assert_uint_eq(byte_at(IMAGE_SIZE - 1), 0x55);
}
END_TEST

/* 1.2, 2.7.4: nothing is to be assumed of how it is cut. */
START_TEST(descriptors_may_be_cut_anywhere)
{
	const struct driver_buffer odd[] = {
		{ HEADER(0), 1, false }, { HEADER(0) + 1, 15, false },
		{ DATA, 0, true },       { DATA, 1, true },
		{ DATA + 1, 700, true }, { DATA + 701, 323, true },
		{ STATUS(0), 1, true },
	};
	const struct driver_buffer joined[] = {
		{ HEADER(0), 16, false },
		{ DATA, 1025, true }, /* the last byte is the status */
	};
	uint32_t written;

	write_header(0, VIRTIO_BLK_T_IN, 5);
	ck_assert_uint_eq(send_chain(odd, nitems(odd), &written), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(written, 1025);
	ck_assert(is(DATA, 512, 5));
	ck_assert(is(DATA + 512, 512, 6));
	write_header(0, VIRTIO_BLK_T_IN, 9);
	fill(DATA, 1100, 0xee);
	(void)send_chain(joined, nitems(joined), &written);
	ck_assert_uint_eq(written, 1025);
	ck_assert(is(DATA, 512, 9));
	ck_assert(is(DATA + 512, 512, 10));
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, DATA + 1024, 1), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(*(uint8_t *)driver_at(&driver, DATA + 1025, 1), 0xee);

	/* A write whose header and data are one. */
	fill(HEADER(0), 16 + 512, 0x33);
	write_header(0, VIRTIO_BLK_T_OUT, 3);
	const struct driver_buffer whole[] = {
		{ HEADER(0), 16 + 512, false },
		{ STATUS(0), 1, true },
	};
	ck_assert_uint_eq(send_chain(whole, 2, &written), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(byte_at(3 * 512), 0x33);
	ck_assert_uint_eq(byte_at(4 * 512 - 1), 0x33);
	ck_assert_uint_eq(byte_at(4 * 512), 4);
}
END_TEST

START_TEST(indirect_descriptors_and_event_indices_work)
{
	struct driver_buffer buffers[QUEUE_SIZE];
	unsigned int n = 0;

	driver_start(&driver, UINT64_MAX);
	buffers[n++] = (struct driver_buffer){ HEADER(0), 16, false };
	for (; n < QUEUE_SIZE - 1; n++)
		buffers[n] = (struct driver_buffer){ DATA + n * 1024, 512, true };
	buffers[n++] = (struct driver_buffer){ STATUS(0), 1, true };
	write_header(0, VIRTIO_BLK_T_IN, 100);
	driver_set_used_event(&driver, 0, 1); /* not of the first */
	(void)driver_add_indirect(&driver, 0, TABLE, buffers, n);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), (QUEUE_SIZE - 2) * 512 + 1);
	for (unsigned int i = 1; i < QUEUE_SIZE - 1; i++)
		ck_assert(is(DATA + i * 1024, 512, (uint8_t)(99 + i)));
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 0);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 1);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 1);
}
END_TEST

START_TEST(a_large_request_is_served_in_pieces)
{
	const uint32_t size = 10 * MIB + 512;

	nr_operations[IORING_OP_READ] = 0;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 1, DATA, size), 0);
	for (uint32_t i = 0; i < size; i += 512)
		ck_assert(is(DATA + i, 512, (uint8_t)(i / 512 + 1)));
	ck_assert_uint_ge(nr_operations[IORING_OP_READ], 3);

	/* And of several buffers, some of them larger than a piece. */
	const struct driver_buffer buffers[] = {
		{ HEADER(0), 16, false },      { DATA, 512, true },
		{ DATA + MIB, 5 * MIB, true }, { DATA + 6 * MIB, 3 * MIB, true },
		{ DATA + 9 * MIB, MIB, true }, { DATA + 10 * MIB, MIB, true },
		{ STATUS(0), 1, true },
	};
	uint32_t written;
	fill(DATA, 11 * MIB, 0);
	write_header(0, VIRTIO_BLK_T_IN, 3);
	ck_assert_uint_eq(send_chain(buffers, nitems(buffers), &written), 0);
	ck_assert_uint_eq(written, 10 * MIB + 512 + 1);
	ck_assert(is(DATA, 512, 3));
	for (uint32_t i = 0; i < 10 * MIB; i += 512)
		ck_assert(is(DATA + MIB + i, 512, (uint8_t)(i / 512 + 4)));
}
END_TEST

static void one_sector_only(struct io_uring_sqe *sqe)
{
	if (sqe->opcode == IORING_OP_READ || sqe->opcode == IORING_OP_WRITE)
		sqe->len = sqe->len < 700 ? sqe->len : 700;
	if (sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_WRITEV)
		sqe->len = 1; /* vector */
}

START_TEST(what_the_host_does_in_part_is_gone_on_with)
{
	const struct driver_buffer in[] = {
		{ HEADER(0), 16, false },    { DATA, 1000, true },   { DATA + 1000, 24, true },
		{ DATA + 1024, 3072, true }, { STATUS(0), 1, true },
	};
	const struct driver_buffer out[] = {
		{ HEADER(0), 16, false },   { DATA, 1000, false },
		{ DATA + 1000, 24, false }, { DATA + 1024, 3072, false },
		{ STATUS(0), 1, true },
	};
	uint32_t written;

	tamper = one_sector_only;
	write_header(0, VIRTIO_BLK_T_IN, 20);
	ck_assert_uint_eq(send_chain(in, nitems(in), &written), 0);
	for (unsigned int i = 0; i < 8; i++)
		ck_assert(is(DATA + i * 512, 512, (uint8_t)(20 + i)));
	for (unsigned int i = 0; i < 8; i++)
		fill(DATA + i * 512, 512, (uint8_t)(0x80 + i));
	write_header(0, VIRTIO_BLK_T_OUT, 20);
	ck_assert_uint_eq(send_chain(out, nitems(out), &written), 0);
	for (unsigned int i = 0; i < 8; i++) {
		ck_assert_uint_eq(byte_at((20 + i) * 512), 0x80 + i);
		ck_assert_uint_eq(byte_at((20 + i) * 512 + 511), 0x80 + i);
	}
	ck_assert_uint_eq(byte_at(28 * 512), 28);
}
END_TEST

START_TEST(all_that_a_kick_brings_is_submitted_at_once)
{
	for (unsigned int i = 0; i < 80; i++)
		offer(0, i, VIRTIO_BLK_T_IN, i, DATA + i * 512, 512);
	nr_submits = 0;
	driver_kick(&driver, 0);
	ck_assert_uint_eq(nr_submits, 1);
	for (unsigned int i = 0; i < 80; i++)
		(void)wait_used(0);
	for (unsigned int i = 0; i < 80; i++) {
		ck_assert_uint_eq(status_of(i), 0);
		ck_assert(is(DATA + i * 512, 512, (uint8_t)i));
	}
	ck_assert_uint_le(driver.nr_queue_interrupts[0], 80);
}
END_TEST

static unsigned int nr_added;

/* Ends while it is submitted, whatever the file system: the restricted ring refuses it. */
static void add_another(struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_NOP;
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 0);
	if (++nr_added < 6)
		offer(0, nr_added, VIRTIO_BLK_T_IN, 0, DATA, 512);
}

START_TEST(what_comes_while_a_kick_is_served_needs_no_other)
{
	driver_start(&driver, UINT64_MAX);
	nr_added = 0;
	tamper = add_another;
	offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(nr_added, 6);
	for (unsigned int i = 0; i < 6; i++) {
		ck_assert_uint_eq(wait_used(0), 0);
		ck_assert_uint_eq(status_of(i), VIRTIO_BLK_S_IOERR);
	}
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 1);
	ck_assert_uint_eq(driver_avail_event(&driver, 0), 6);
}
END_TEST

/* Likewise, and by the second one the driver knows of the first. */
static void count_those_told(struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_NOP;
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], nr_added);
	nr_added++;
}

START_TEST(the_driver_does_not_wait_for_all_of_much)
{
	driver_start(&driver, ALL);
	nr_added = 0;
	tamper = count_those_told;
	for (unsigned int i = 0; i < 3; i++)
		offer(0, i, VIRTIO_BLK_T_IN, 0, DATA, 128 * 1024);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(nr_added, 3);
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 3);
}
END_TEST

START_TEST(each_queue_gets_its_own_back)
{
	offer(0, 0, VIRTIO_BLK_T_IN, 1, DATA, 512);
	offer(1, 1, VIRTIO_BLK_T_IN, 2, DATA + 512, 512);
	driver_kick(&driver, 1);
	ck_assert_uint_eq(wait_used(1), 513);
	ck_assert(is(DATA + 512, 512, 2));
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 0);
	ck_assert_uint_eq(driver.nr_queue_interrupts[1], 1);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 513);
	ck_assert(is(DATA, 512, 1));
}
END_TEST

START_TEST(a_kick_that_brings_a_lot_leaves_some_for_later)
{
	for (unsigned int i = 0; i < 80; i++)
		offer(0, i, VIRTIO_BLK_T_IN, 0, DATA, 8 * MIB);
	driver_kick(&driver, 0);
	ck_assert(eventfd_pending(blk.virtio.queues[0].kicked.fd));
	for (unsigned int i = 0; i < 80; i++)
		(void)wait_used(0);
	ck_assert_uint_eq(figures().bytes_read, 80 * 8 * MIB);
}
END_TEST

START_TEST(a_driver_whose_chains_come_and_go_does_not_keep_it)
{
	chains_come_and_go = true;
	nr_awaits = 0;
	driver_kick(&driver, 0);
	ck_assert_uint_eq(nr_awaits, QUEUE_SIZE);
	ck_assert(eventfd_pending(blk.virtio.queues[0].kicked.fd)); /* others first */
	chains_come_and_go = false;
}
END_TEST

/* Other requests */

START_TEST(the_serial_number_is_told)
{
	char id[32];

	fill(DATA, 64, 0xee);
	offer(0, 0, VIRTIO_BLK_T_GET_ID, 0, DATA, 20);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 21);
	ck_assert_uint_eq(status_of(0), 0);
	memcpy(id, driver_at(&driver, DATA, 32), 32);
	ck_assert_int_eq(memcmp(id, "number-1\0\0\0\0\0\0\0\0\0\0\0\0\xee", 21), 0);
	/* A buffer of another size is the driver's own affair. */
	fill(DATA, 64, 0xee);
	offer(0, 0, VIRTIO_BLK_T_GET_ID, 0, DATA, 4);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 5);
	ck_assert_int_eq(memcmp(driver_at(&driver, DATA, 32), "numb\xee", 5), 0);
	offer(0, 0, VIRTIO_BLK_T_GET_ID, 0, DATA, 60);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 20); /* the bytes from 20 on were not written */
	ck_assert_uint_eq(status_of(0), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, 0, 0), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, NOWHERE, 20), VIRTIO_BLK_S_IOERR);
}
END_TEST

START_TEST(twenty_letters_need_no_end)
{
	setup_with((struct virtio_blk_options){ .serial = "12345678901234567890" }, ALL);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, DATA, 20), 0);
	ck_assert_int_eq(memcmp(driver_at(&driver, DATA, 21), "12345678901234567890\0", 21), 0);
	teardown();
	setup_with((struct virtio_blk_options){ 0 }, ALL);
	fill(DATA, 20, 0xee);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_GET_ID, 0, DATA, 20), 0);
	ck_assert(is(DATA, 20, 0));
	teardown();
}
END_TEST

START_TEST(what_is_not_known_is_unsupported)
{
	static const uint32_t types[] = { 2, 3, 9, 10, 14, 16, 0x80000000, UINT32_MAX };

	for (unsigned int i = 0; i < nitems(types); i++)
		ck_assert_uint_eq(request(types[i], 0, DATA, 512), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(figures().nr_errors, nitems(types));
	process_expect_no_log();
}
END_TEST

START_TEST(a_discard_leaves_a_hole)
{
	uint64_t before = allocated();

	put_range(0, 2048, 4096, 0); /* 2 MiB from 1 MiB on */
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), 0);
	ck_assert_uint_eq(before - allocated(), 2 * MIB);
	ck_assert_uint_eq(byte_at(MIB), 0);
	ck_assert_uint_eq(byte_at(MIB - 1), (uint8_t)2047);
	ck_assert_uint_eq(byte_at(3 * MIB + 512), (uint8_t)6145);
	/* Several ranges, one of them empty. */
	put_range(0, 8192, 8, 0);
	put_range(1, 0, 0, 0);
	put_range(2, 8208, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 3), 0);
	ck_assert_uint_eq(before - allocated(), 2 * MIB + 8192);
	ck_assert_uint_eq(byte_at(8192 * 512), 0);
	ck_assert_uint_eq(byte_at(8201 * 512), (uint8_t)8201);
	ck_assert_uint_eq(byte_at(8208 * 512), 0);
	ck_assert_uint_eq(figures().nr_discards, 2);
	ck_assert_uint_eq(lseek(image, 0, SEEK_END), IMAGE_SIZE);
}
END_TEST

START_TEST(zeros_may_be_a_hole_if_the_driver_says_so)
{
	uint64_t before = allocated();

	put_range(0, 2049, 4096, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), 0);
	ck_assert_uint_lt(allocated(), before - MIB);
	ck_assert_uint_eq(byte_at(2048 * 512), (uint8_t)2048);
	ck_assert_uint_eq(byte_at(2049 * 512), 0);
	ck_assert_uint_eq(byte_at(6145 * 512 - 1), 0);
	ck_assert_uint_eq(byte_at(6145 * 512), (uint8_t)6145);
	before = allocated();
	put_range(0, 10001, 3001, 0);
	put_range(1, 20000, 1, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 2), 0);
	ck_assert_uint_eq(allocated(), before);
	ck_assert_uint_eq(byte_at(10000 * 512), (uint8_t)10000);
	ck_assert_uint_eq(byte_at(10001 * 512), 0);
	ck_assert_uint_eq(byte_at(13002 * 512 - 1), 0);
	ck_assert_uint_eq(byte_at(13002 * 512), (uint8_t)13002);
	ck_assert_uint_eq(byte_at(20000 * 512), 0);
	ck_assert_uint_eq(byte_at(20001 * 512), (uint8_t)20001);
	ck_assert_uint_eq(figures().nr_zeroes, 2);
	ck_assert_uint_eq(lseek(image, 0, SEEK_END), IMAGE_SIZE);
}
END_TEST

static void cannot_allocate(struct io_uring_sqe *sqe)
{
	if (sqe->opcode == IORING_OP_FALLOCATE)
		sqe->len = 0x4000; /* is no mode: EOPNOTSUPP */
}

START_TEST(a_host_that_cannot_zero_or_discard_does_without)
{
	uint64_t before = allocated();

	tamper = cannot_allocate;
	put_range(0, 2048, 4096, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), 0); /* was a hint */
	ck_assert_uint_eq(byte_at(MIB + 512), 1);
	put_range(0, 2049, 4097, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	put_range(1, 9001, 1, 0);
	nr_operations[IORING_OP_WRITE] = 0;
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 2), 0);
	ck_assert_uint_eq(nr_operations[IORING_OP_WRITE], 4); /* 2 MiB and a bit; and one */
	ck_assert_uint_eq(allocated(), before);
	ck_assert_uint_eq(byte_at(2048 * 512 + 511), 0);
	ck_assert_uint_eq(byte_at(2049 * 512), 0);
	ck_assert_uint_eq(byte_at(6146 * 512 - 1), 0);
	ck_assert_uint_eq(byte_at(6146 * 512), (uint8_t)6146);
	ck_assert_uint_eq(byte_at(9001 * 512), 0);
	ck_assert_uint_eq(byte_at(9002 * 512), (uint8_t)9002);
	process_expect_no_log();
}
END_TEST

static void bad_file(struct io_uring_sqe *sqe)
{
	sqe->fd = 9999; /* EBADF */
}

static void opens_instead(struct io_uring_sqe *sqe)
{
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
}

/* Whoever gets hold of us would have it do so, where seccomp sees nothing of it. */
START_TEST(the_ring_takes_nothing_but_what_a_disk_needs)
{
	tamper = opens_instead;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("Permission denied");
	tamper = NULL;
	ck_assert_int_eq(io_uring_register_files(&blk.ring, &blk.fd, 1), -EACCES);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(a_discard_that_fails_is_an_error)
{
	tamper = bad_file;
	put_range(0, 0, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_IOERR);
	process_expect_log("a discard at 0: Bad file descriptor");
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), VIRTIO_BLK_S_IOERR);
	process_expect_log("writing zeros at 0: Bad file descriptor");
}
END_TEST

START_TEST(ranges_that_cannot_be_are_refused)
{
	static const uint32_t types[] = { VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES };

	for (unsigned int i = 0; i < 2; i++) {
		put_range(0, 0, (1u << 21) + 1, 0);
		ck_assert_uint_eq(range_request(types[i], 1), VIRTIO_BLK_S_IOERR);
		put_range(0, NR_SECTORS, 1, 0);
		ck_assert_uint_eq(range_request(types[i], 1), VIRTIO_BLK_S_IOERR);
		put_range(0, UINT64_MAX, 2, 0);
		ck_assert_uint_eq(range_request(types[i], 1), VIRTIO_BLK_S_IOERR);
		put_range(0, 0, 8, 2);
		ck_assert_uint_eq(range_request(types[i], 1), VIRTIO_BLK_S_UNSUPP);
		/* None is done if one is bad. */
		put_range(0, 16, 8, 0);
		put_range(1, NR_SECTORS - 1, 2, 0);
		ck_assert_uint_eq(range_request(types[i], 2), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(byte_at(16 * 512), 16);
		ck_assert_uint_eq(request(types[i], 0, DATA, 0), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(request(types[i], 0, DATA, 17), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(range_request(types[i], 17), VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(request(types[i], 0, NOWHERE, 16), VIRTIO_BLK_S_IOERR);
	}
	put_range(0, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(byte_at(512), 1);
	for (unsigned int i = 0; i < 16; i++)
		put_range(i, 1000, 1, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 16), 0);
}
END_TEST

START_TEST(ranges_need_their_features)
{
	setup_with((struct virtio_blk_options){ 0 }, VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH));
	put_range(0, 0, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), VIRTIO_BLK_S_UNSUPP);
	teardown();
}
END_TEST

/* What the guest does wrong */

START_TEST(sectors_that_are_not_there_are_errors)
{
	static const struct {
		uint64_t sector;
		uint32_t size;
	} bad[] = {
		{ NR_SECTORS, 512 }, { NR_SECTORS - 1, 1024 },
		{ UINT64_MAX, 512 }, { UINT64_MAX / 512, 512 },
		{ 1ull << 55, 512 }, { 0, 511 },
		{ 0, 513 },          { 0, 1 },
	};

	for (unsigned int i = 0; i < nitems(bad); i++) {
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, bad[i].sector, DATA, bad[i].size),
				  VIRTIO_BLK_S_IOERR);
		ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, bad[i].sector, DATA, bad[i].size),
				  VIRTIO_BLK_S_IOERR);
	}
	ck_assert_uint_eq(lseek(image, 0, SEEK_END), IMAGE_SIZE);
	ck_assert_uint_eq(byte_at(IMAGE_SIZE - 1), (uint8_t)(NR_SECTORS - 1));
	/* Nothing is a whole number of sectors. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, NR_SECTORS, 0, 0), 0);
	ck_assert(!driver_is_broken(&driver));
}
END_TEST

START_TEST(an_error_says_nothing_of_bytes_that_were_not_written)
{
	offer(0, 0, VIRTIO_BLK_T_IN, NR_SECTORS, DATA, 512);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 0);
	offer(0, 0, VIRTIO_BLK_T_OUT, NR_SECTORS, DATA, 512);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(wait_used(0), 1);
}
END_TEST

START_TEST(buffers_outside_of_ram_are_errors)
{
	const struct driver_buffer far_header[] = { { NOWHERE, 16, false },
						    { STATUS(0), 1, true } };
	const struct driver_buffer short_header[] = { { HEADER(0), 15, false },
						      { STATUS(0), 1, true } };
	const struct driver_buffer no_header[] = { { STATUS(0), 1, true } };
	uint32_t written;

	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, NOWHERE, 512), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, DRIVER_RAM - 256, 512),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, UINT64_MAX - 100, 512),
			  VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(send_chain(far_header, 2, &written), VIRTIO_BLK_S_IOERR);
	write_header(0, VIRTIO_BLK_T_FLUSH, 0);
	ck_assert_uint_eq(send_chain(short_header, 2, &written), VIRTIO_BLK_S_IOERR);
	write_header(0, VIRTIO_BLK_T_FLUSH, 0);
	ck_assert_uint_eq(send_chain(no_header, 1, &written), VIRTIO_BLK_S_IOERR);
	ck_assert(!driver_is_broken(&driver));
	ck_assert_uint_eq(byte_at(0), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 1, DATA, 512), 0);
}
END_TEST

START_TEST(no_place_for_the_status_breaks_it)
{
	static const struct driver_buffer bad[][3] = {
		{ { HEADER(0), 16, false } },
		{ { HEADER(0), 16, false }, { STATUS(0), 0, true } },
		{ { HEADER(0), 16, false }, { DATA, 512, true }, { NOWHERE, 1, true } },
	};

	for (unsigned int i = 0; i < nitems(bad); i++) {
		driver_start(&driver, ALL);
		write_header(0, VIRTIO_BLK_T_IN, 0);
		(void)driver_add(&driver, 0, bad[i], i + 1);
		driver_kick(&driver, 0);
		ck_assert(driver_is_broken(&driver));
		process_expect_log("a request with no place for its status");
		ck_assert(!any_used(0));
		/* And nothing is served any more. */
		offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
		driver_kick(&driver, 0);
		run_a_while();
		ck_assert_uint_eq(status_of(0), 0xff);
	}
	driver_start(&driver, ALL);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), 0);
}
END_TEST

START_TEST(a_malformed_queue_breaks_it)
{
	driver_publish(&driver, 1, 9999);
	driver_kick(&driver, 1);
	ck_assert(driver_is_broken(&driver));
	process_expect_log("a malformed queue");
}
END_TEST

START_TEST(a_used_ring_outside_of_ram_breaks_it)
{
	driver_negotiate(&driver, 0); /* without event indices, which are there, too */
	driver_place_queues(&driver);
	blk.virtio.queues[0].ring.device = DRIVER_RAM - 4; /* flags and index are within */
	driver_ok(&driver);
	offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	driver_kick(&driver, 0);
	while (!driver_is_broken(&driver))
		ck_assert(run_once(WAIT_MS));
	process_expect_log("a used ring that cannot be written");
}
END_TEST

START_TEST(the_log_has_an_end)
{
	unsigned int lines = 0;

	for (unsigned int i = 0; i < 100; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, NR_SECTORS, DATA, 512),
				  VIRTIO_BLK_S_IOERR);
	tamper = bad_file;
	for (unsigned int i = 0; i < 100; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
	for (const char *p = process_log(); *p; p++)
		lines += *p == '\n';
	ck_assert_uint_eq(lines, 2 * (LOG_GUEST_BURST + 1));
}
END_TEST

/* What the host does wrong */

START_TEST(the_hosts_errors_are_io_errors)
{
	full = open("/dev/full", O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(full, 0);
	tamper = full_disk;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 4, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("a write at 2048: No space left on device");
	tamper = NULL;
	fd_close(&full);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 4, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(figures().nr_errors, 1);
	ck_assert(!driver_is_broken(&driver));
}
END_TEST

START_TEST(a_limit_on_file_size_is_an_io_error)
{
	const struct rlimit limit = { MIB, RLIM_INFINITY };
	const struct rlimit none = { RLIM_INFINITY, RLIM_INFINITY };

	(void)signal(SIGXFSZ, SIG_IGN); /* as the machine does */
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 2048, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("a write at 1048576: File too large");
	/* Half of it below. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 2047, DATA, 1024), VIRTIO_BLK_S_IOERR);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
}
END_TEST

START_TEST(a_file_that_ends_too_soon_is_an_io_error)
{
	ck_assert_int_eq(ftruncate(image, 1024), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 4096), VIRTIO_BLK_S_IOERR);
	process_expect_log("a read at 1024: the end of the file");
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 1024), VIRTIO_BLK_S_OK);
}
END_TEST

static unsigned int nr_interruptions;

/* A file that is not ready, asked not to wait: EAGAIN. */
static int empty_pipe[2] = { -1, -1 };

static void try_again(struct io_uring_sqe *sqe)
{
	if (nr_interruptions == 0)
		return;
	nr_interruptions--;
	sqe->fd = empty_pipe[0];
	sqe->rw_flags = RWF_NOWAIT;
}

START_TEST(what_is_to_be_tried_again_is)
{
	ck_assert_int_eq(pipe2(empty_pipe, O_CLOEXEC | O_NONBLOCK), 0);
	nr_interruptions = 3;
	tamper = try_again;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 3, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_interruptions, 0);
	ck_assert(is(DATA, 512, 3));
	fd_close(&empty_pipe[0]);
	fd_close(&empty_pipe[1]);
	process_expect_no_log();
}
END_TEST

START_TEST(a_submission_that_is_refused_is_made_later)
{
	submit_fails = true;
	offer(0, 0, VIRTIO_BLK_T_IN, 3, DATA, 512);
	driver_kick(&driver, 0);
	ck_assert(run_once(2000)); /* the timer */
	ck_assert_uint_eq(status_of(0), 0xff);
	submit_fails = false;
	ck_assert_uint_eq(wait_used(0), 513);
	ck_assert(is(DATA, 512, 3));
	/* So many that there is no room for more: these fail. */
	submit_fails = true;
	for (unsigned int i = 0; i < 160; i++)
		offer(i % 2, i, VIRTIO_BLK_T_IN, i, DATA + i * 512, 512);
	driver_kick(&driver, 0);
	driver_kick(&driver, 1);
	for (unsigned int i = 160; i < 320; i++)
		offer(i % 2, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	submit_fails = false;
}
END_TEST

START_TEST(more_than_the_kernel_takes_are_errors)
{
	unsigned int nr_bad = 0;

	submit_fails = true;
	for (unsigned int i = 0; i < 3; i++) {
		/* One descriptor each, or the table would not do. */
		for (unsigned int k = 0; k < 128; k++) {
			const unsigned int n = i * 128 + k;
			const struct driver_buffer buffers[] = {
				{ HEADER(n), 16, false },
				{ DATA + n * 512, 512, true },
				{ STATUS(n), 1, true },
			};
			write_header(n, VIRTIO_BLK_T_IN, n);
			(void)driver_add_indirect(&driver, i % 2, TABLE + n * 64, buffers, 3);
		}
		driver_kick(&driver, i % 2);
	}
	for (unsigned int n = 0; n < 384; n++)
		nr_bad += status_of(n) == VIRTIO_BLK_S_IOERR;
	ck_assert_uint_eq(nr_bad, 384 - 256);
	submit_fails = false;
	for (unsigned int n = 0; n < 128; n++)
		(void)wait_used(1);
	for (unsigned int n = 0; n < 256; n++)
		(void)wait_used(0);
	for (unsigned int n = 0; n < 256; n++)
		ck_assert(is(DATA + n * 512, 512, (uint8_t)n));
	ck_assert_ptr_nonnull(
		strstr(process_log(), "io_uring at 131072: Cannot allocate memory"));
}
END_TEST

/* Flushes */

static void fsync_fails(struct io_uring_sqe *sqe)
{
	if (sqe->opcode == IORING_OP_FSYNC)
		sqe->fd = 9999;
}

START_TEST(a_flush_syncs_the_data)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
	ck_assert_uint_eq(figures().nr_flushes, 1);
	fill(DATA, 512, 1);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
}
END_TEST

START_TEST(after_a_flush_that_failed_none_succeeds)
{
	tamper = fsync_fails;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	process_expect_log(
		"every further flush fails until it is opened again: flush: Bad file");
	tamper = NULL;
	unsigned int before = nr_operations[IORING_OP_FSYNC];
	for (unsigned int i = 0; i < 3; i++)
		ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	/* Nor does the guest's reset make up for what is lost. */
	driver_start(&driver, ALL);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], before);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	process_expect_no_log();
}
END_TEST

START_TEST(flushes_run_one_at_a_time_and_cover_who_waits)
{
	for (unsigned int i = 0; i < 50; i++)
		offer(0, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1); /* for all of them */
	/* Who comes while it runs may have written since it began. */
	for (unsigned int i = 50; i < 60; i++) {
		offer(1, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
		if (blk.flush_runs && i == 50)
			driver_kick(&driver, 1);
	}
	driver_kick(&driver, 1);
	for (unsigned int i = 0; i < 50; i++)
		(void)wait_used(0);
	for (unsigned int i = 50; i < 60; i++)
		(void)wait_used(1);
	ck_assert_uint_ge(nr_operations[IORING_OP_FSYNC], 2);
	ck_assert_uint_le(nr_operations[IORING_OP_FSYNC], 3);
	ck_assert_uint_eq(figures().nr_flushes, 60);
}
END_TEST

START_TEST(who_waits_while_a_flush_fails_fails_too)
{
	tamper = fsync_fails;
	submit_fails = true; /* the first is under way */
	offer(0, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	offer(0, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	ck_assert(blk.flush_runs);
	submit_fails = false;
	(void)wait_used(0);
	(void)wait_used(0);
	ck_assert_uint_eq(status_of(0), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(status_of(1), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
}
END_TEST

START_TEST(without_flushes_each_write_is_flushed)
{
	setup_with((struct virtio_blk_options){ 0 },
		   VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) |
			   VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
	fill(DATA, 512, 0x77);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 9, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
	ck_assert_uint_eq(byte_at(9 * 512), 0x77);
	ck_assert_uint_eq(figures().bytes_written, 512);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 9, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
	put_range(0, 0, 8, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 2);
	put_range(0, 0, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 2); /* nothing is promised of it */
	tamper = fsync_fails;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 9, DATA, 512), VIRTIO_BLK_S_IOERR);
	tamper = NULL;
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 9, DATA, 512), VIRTIO_BLK_S_IOERR);
	teardown();
}
END_TEST

/* readonly=on */

START_TEST(a_readonly_disk_is_only_read)
{
	setup_with((struct virtio_blk_options){ .readonly = true }, ALL);
	ck_assert_uint_ne(blk.virtio.features & VIRTIO_FEATURE(VIRTIO_BLK_F_RO), 0);
	ck_assert_uint_eq(blk.virtio.features & (VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) |
						 VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)),
			  0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 5, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert(is(DATA, 512, 5));
	fill(DATA, 512, 0xff);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 5, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("a request to write to what is read-only");
	put_range(0, 0, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), VIRTIO_BLK_S_UNSUPP);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 0);
	ck_assert_uint_eq(byte_at(512), 1);
	ck_assert_uint_eq(byte_at(5 * 512), 5);
	teardown();
}
END_TEST

/* direct=on */

static bool setup_direct(void)
{
	tells_align = true;
	direct_align = 512;
	make_world("/var/tmp");
	int r = init((struct virtio_blk_options){ .direct = true }, 1);
	if (r < 0) /* a file system without, perhaps */
		return false;
	driver_start(&driver, ALL);
	return true;
}

START_TEST(direct_takes_buffers_of_any_alignment)
{
	if (!setup_direct()) {
		teardown();
		return;
	}
	ck_assert_int_ne(fcntl(blk.fd, F_GETFL) & O_DIRECT, 0);
	/* Aligned: as it is. */
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 16, DATA, 4096), 0);
	ck_assert(is(DATA + 512, 512, 17));
	/* By the byte, and more than the buffer holds. */
	const struct driver_buffer in[] = {
		{ HEADER(0), 16, false },
		{ DATA + 3, 5, true },
		{ DATA + 1003, 3 * MIB - 1000, true },
		{ DATA + 4 * MIB, 995, true },
		{ STATUS(0), 1, true },
	};
	uint32_t written;
	write_header(0, VIRTIO_BLK_T_IN, 8);
	ck_assert_uint_eq(send_chain(in, nitems(in), &written), 0);
	ck_assert_uint_eq(written, 3 * MIB + 1);
	ck_assert(is(DATA + 3, 5, 8));
	ck_assert(is(DATA + 1003, 507, 8));
	ck_assert(is(DATA + 1003 + 507, 512, 9));
	ck_assert(is(DATA + 4 * MIB + 995 - 512, 512, (uint8_t)(8 + 6143)));
	/* Several at once have to wait for each other. */
	for (unsigned int i = 0; i < 40; i++) {
		fill(DATA + 1 + i * 8192, 4096, (uint8_t)(0x80 + i));
		offer(0, i, VIRTIO_BLK_T_OUT, 800 + 8 * i, DATA + 1 + i * 8192, 4096);
	}
	driver_kick(&driver, 0);
	for (unsigned int i = 0; i < 40; i++)
		(void)wait_used(0);
	for (unsigned int i = 0; i < 40; i++) {
		ck_assert_uint_eq(status_of(i), 0);
		ck_assert_uint_eq(byte_at((800 + 8 * i) * 512), 0x80 + i);
		ck_assert_uint_eq(byte_at((800 + 8 * i) * 512 + 4095), 0x80 + i);
	}
	ck_assert_uint_eq(byte_at((800 + 320) * 512), (uint8_t)1120);
	ck_assert_ptr_null(blk.bouncer);
	/* Zeros that are written lie well. */
	tamper = cannot_allocate;
	put_range(0, 800, 8, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_WRITE_ZEROES, 1), 0);
	ck_assert_uint_eq(byte_at(800 * 512), 0);
	process_expect_no_log();
	teardown();
}
END_TEST

static bool cut; /* a block was */

static void look_for_cuts(struct io_uring_sqe *sqe)
{
	const struct iovec *iov = (const struct iovec *)(uintptr_t)sqe->addr;

	if (sqe->opcode != IORING_OP_READV && sqe->opcode != IORING_OP_WRITEV)
		return;
	for (unsigned int i = 0; i < sqe->len; i++)
		cut = cut || iov[i].iov_len % 512 != 0;
}

/* Memory may lie anywhere, nearly, but each piece of it has to be a whole block. */
START_TEST(direct_cuts_no_block)
{
	const struct driver_buffer in[] = {
		{ HEADER(0), 16, false },
		{ DATA, 12, true },
		{ DATA + 4096, 500, true },
		{ STATUS(0), 1, true },
	};
	uint32_t written;

	tells_align = true;
	direct_align = 4;
	make_world("/var/tmp");
	if (init((struct virtio_blk_options){ .direct = true }, 1) < 0) {
		teardown();
		return;
	}
	driver_start(&driver, ALL);
	write_header(0, VIRTIO_BLK_T_IN, 8);
	tamper = look_for_cuts;
	ck_assert_uint_eq(send_chain(in, nitems(in), &written), 0);
	tamper = NULL;
	ck_assert(!cut);
	ck_assert(is(DATA, 12, 8));
	ck_assert(is(DATA + 4096, 500, 8));
	teardown();
}
END_TEST

START_TEST(direct_has_the_hosts_blocks)
{
	direct_align = 4096;
	tells_align = true;
	make_world("/var/tmp");
	ck_assert_int_eq(ftruncate(image, 4096 + 512), 0);
	if (init((struct virtio_blk_options){ .direct = true }, 1) < 0) {
		teardown();
		return;
	}
	process_expect_log("its size is no multiple of 4096 bytes");
	driver_start(&driver, ALL);
	ck_assert_uint_eq(config32(OFFSET(blk_size)), 4096);
	ck_assert_uint_eq(config64(OFFSET(capacity)), 8);
	ck_assert_uint_eq(config32(OFFSET(discard_sector_alignment)), 8);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 4096), 0);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 1, DATA, 512), VIRTIO_BLK_S_IOERR);
	put_range(0, 1, 1, 0);
	ck_assert_uint_eq(range_request(VIRTIO_BLK_T_DISCARD, 1), VIRTIO_BLK_S_IOERR);
	teardown();
}
END_TEST

/* Whether the kernel says what it needs, or does not, or that nothing works. */
START_TEST(what_direct_needs_is_asked)
{
	make_world("/var/tmp");
	fail_statx = ENOSYS;
	int r = init((struct virtio_blk_options){ .direct = true }, 1);
	fail_statx = 0;
	if (r == 0) {
		ck_assert_uint_eq(blk.block_size, 4096);
		ck_assert_uint_eq(blk.memory_align, 4096);
	}
	virtio_blk_finish(&blk);
	if (r == 0) {
		tells_align = true;
		direct_align = 0;
		ck_assert_int_eq(init((struct virtio_blk_options){ .direct = true }, 1),
				 -EINVAL);
		process_expect_log("its file system knows no direct=on (O_DIRECT)");
		direct_align = 4;
		ck_assert_int_eq(init((struct virtio_blk_options){ .direct = true }, 1), 0);
		ck_assert_uint_eq(blk.block_size, 512);
		ck_assert_uint_eq(blk.memory_align, 4);
		virtio_blk_finish(&blk);
		direct_align = 3000;
		ck_assert_int_eq(init((struct virtio_blk_options){ .direct = true }, 1),
				 -EINVAL);
		process_expect_log("no guest can use it");
	}
	fail_open = EINVAL;
	ck_assert_int_eq(init((struct virtio_blk_options){ .direct = true }, 1), -EINVAL);
	process_expect_log("its file system knows no direct=on (O_DIRECT)");
	fail_open = 0;
	teardown();
}
END_TEST

/* Resets */

/* Operations that last until somebody writes into the pipe. */
static void hang(struct io_uring_sqe *sqe)
{
	if (sqe->opcode == IORING_OP_READ)
		sqe->fd = empty_pipe[0];
}

static void start_hanging(unsigned int nr)
{
	ck_assert_int_eq(pipe2(empty_pipe, O_CLOEXEC), 0);
	tamper = hang;
	for (unsigned int i = 0; i < nr; i++)
		offer(0, i, VIRTIO_BLK_T_IN, i, DATA + i * 512, 512);
	driver_kick(&driver, 0);
	ck_assert_uint_eq(blk.nr_running, nr);
}

static void end_hanging(unsigned int nr)
{
	static const char bytes[512] = "x";

	tamper = NULL;
	for (unsigned int i = 0; i < nr; i++)
		ck_assert_int_eq(write(empty_pipe[1], bytes, 512), 512);
}

static void close_pipe(void)
{
	fd_close(&empty_pipe[0]);
	fd_close(&empty_pipe[1]);
}

START_TEST(a_reset_waits_for_what_is_under_way)
{
	int reset_fd = -1;

	ck_assert_int_eq(eventfd_create(&reset_fd), 0);
	blk.virtio.reset_fd = reset_fd;
	start_hanging(3);
	offer(0, 3, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_set_status(&driver, 0);
	ck_assert(virtio_is_resetting(&blk.virtio));
	ck_assert_uint_ne(driver_status(&driver), 0);
	run_a_while();
	ck_assert(virtio_is_resetting(&blk.virtio));
	ck_assert(!eventfd_pending(reset_fd));
	end_hanging(2);
	run_a_while();
	ck_assert(virtio_is_resetting(&blk.virtio));
	end_hanging(1);
	while (virtio_is_resetting(&blk.virtio))
		ck_assert(run_once(WAIT_MS));
	ck_assert(eventfd_take(reset_fd));
	ck_assert_uint_eq(driver_status(&driver), 0);
	/* Nobody was told of what was given up. */
	for (unsigned int i = 0; i < 4; i++)
		ck_assert_uint_eq(status_of(i), 0xff);
	ck_assert(!any_used(0));
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 0);
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	ck_assert_uint_eq(figures().nr_reads, 0);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 7, DATA, 512), VIRTIO_BLK_S_OK);
	ck_assert(is(DATA, 512, 7));
	close_pipe();
	fd_close(&reset_fd);
}
END_TEST

START_TEST(a_reset_with_nothing_under_way_is_through_at_once)
{
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 7, DATA, 512), VIRTIO_BLK_S_OK);
	driver_set_status(&driver, 0);
	ck_assert(!virtio_is_resetting(&blk.virtio));
	ck_assert_uint_eq(driver_status(&driver), 0);
}
END_TEST

/* Requests that wait for a flush, or for the buffer, are not begun any more. */
START_TEST(a_reset_drops_who_waits)
{
	submit_fails = true;
	offer(0, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	offer(0, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	driver_set_status(&driver, 0);
	ck_assert(virtio_is_resetting(&blk.virtio));
	ck_assert_uint_eq(blk.nr_taken[0], 1);
	submit_fails = false;
	while (virtio_is_resetting(&blk.virtio))
		ck_assert(run_once(WAIT_MS));
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	ck_assert_uint_eq(nr_operations[IORING_OP_FSYNC], 1);
}
END_TEST

/* A piece of a large one is under way; there is no second. */
START_TEST(a_reset_does_not_wait_for_all_of_a_large_request)
{
	ck_assert_int_eq(pipe2(empty_pipe, O_CLOEXEC), 0);
	tamper = hang;
	offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 10 * MIB);
	driver_kick(&driver, 0);
	driver_set_status(&driver, 0);
	end_hanging(1);
	nr_operations[IORING_OP_READ] = 0;
	while (virtio_is_resetting(&blk.virtio))
		ck_assert(run_once(WAIT_MS));
	ck_assert_uint_eq(nr_operations[IORING_OP_READ], 0);
	close_pipe();
}
END_TEST

/* Without bus mastering: what is under way ends, and nobody is told; nor when it is there again. */
START_TEST(what_ends_while_it_rests_is_told_when_it_runs_again)
{
	start_hanging(2);
	virtio_set_dma(&blk.virtio, false);
	end_hanging(2);
	offer(0, 2, VIRTIO_BLK_T_IN, 2, DATA + 2 * 512, 512);
	driver_kick(&driver, 0);
	run_a_while();
	virtio_set_dma(&blk.virtio, true);
	run_a_while();
	ck_assert_uint_eq(blk.nr_running, 0);
	for (unsigned int i = 0; i < 3; i++)
		ck_assert_uint_eq(status_of(i), 0xff);
	ck_assert(!any_used(0));
	ck_assert_uint_eq(driver.nr_queue_interrupts[0], 0);
	driver_ok(&driver);
	for (unsigned int i = 0; i < 3; i++)
		(void)wait_used(0);
	for (unsigned int i = 0; i < 3; i++)
		ck_assert_uint_eq(status_of(i), VIRTIO_BLK_S_OK);
	ck_assert_uint_ge(driver.nr_queue_interrupts[0], 1);
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	close_pipe();
}
END_TEST

START_TEST(what_failed_while_it_rested_has_failed)
{
	start_hanging(1);
	virtio_set_dma(&blk.virtio, false);
	fd_close(&empty_pipe[1]); /* the end of the file */
	run_a_while();
	ck_assert_uint_eq(status_of(0), 0xff);
	tamper = NULL;
	virtio_set_dma(&blk.virtio, true);
	driver_ok(&driver);
	(void)wait_used(0);
	ck_assert_uint_eq(status_of(0), VIRTIO_BLK_S_IOERR);
	close_pipe();
}
END_TEST

START_TEST(what_was_to_go_on_while_it_rested_goes_on)
{
	ck_assert_int_eq(pipe2(empty_pipe, O_CLOEXEC), 0);
	tamper = hang;
	offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 10 * MIB);
	driver_kick(&driver, 0);
	virtio_set_dma(&blk.virtio, false);
	end_hanging(1);
	nr_operations[IORING_OP_READ] = 0;
	run_a_while();
	virtio_set_dma(&blk.virtio, true);
	ck_assert_uint_eq(nr_operations[IORING_OP_READ], 0);
	driver_ok(&driver);
	ck_assert_uint_eq(wait_used(0), 10 * MIB + 1);
	ck_assert_uint_eq(status_of(0), VIRTIO_BLK_S_OK);
	ck_assert(is(DATA + 512, 512, 1));
	ck_assert(is(DATA + 10 * MIB - 512, 512, (uint8_t)(10 * MIB / 512 - 1)));
	close_pipe();
}
END_TEST

START_TEST(a_reset_forgets_what_ended_while_it_rested)
{
	start_hanging(2);
	virtio_set_dma(&blk.virtio, false);
	end_hanging(2);
	run_a_while();
	ck_assert_uint_eq(blk.nr_taken[0], 2);
	driver_set_status(&driver, 0);
	ck_assert(!virtio_is_resetting(&blk.virtio));
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	virtio_set_dma(&blk.virtio, true);
	ck_assert_uint_eq(status_of(0), 0xff);
	driver_start(&driver, ALL);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, 7, DATA, 512), VIRTIO_BLK_S_OK);
	close_pipe();
}
END_TEST

START_TEST(a_driver_that_broke_the_rules_hears_no_more)
{
	start_hanging(2);
	driver_publish(&driver, 1, 9999);
	driver_kick(&driver, 1);
	ck_assert(driver_is_broken(&driver));
	end_hanging(2);
	run_a_while();
	ck_assert_uint_eq(blk.nr_running, 0);
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	ck_assert_uint_eq(status_of(0), 0xff);
	ck_assert(!any_used(0));
	close_pipe();
}
END_TEST

/* The same chain again and again, before it is back. */
START_TEST(more_requests_than_entries_break_it)
{
	start_hanging(1);
	for (unsigned int round = 0; round < 5; round++) {
		for (unsigned int i = 0; i < 60; i++)
			driver_publish(&driver, 0, 0);
		driver_kick(&driver, 0);
	}
	ck_assert(driver_is_broken(&driver));
	process_expect_log("more requests at once than its queue has entries");
	ck_assert_uint_eq(blk.nr_taken[0], QUEUE_SIZE);
	end_hanging(100);
	driver_set_status(&driver, 0);
	end_hanging(QUEUE_SIZE - 100);
	while (virtio_is_resetting(&blk.virtio))
		ck_assert(run_once(WAIT_MS));
	ck_assert_uint_eq(blk.nr_taken[0], 0);
	close_pipe();
}
END_TEST

START_TEST(the_end_does_not_wait_for_what_can_be_cancelled)
{
	start_hanging(5);
	offer(0, 9, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	driver_kick(&driver, 0);
	virtio_blk_finish(&blk); /* returns; the pipe is empty still */
	ck_assert_uint_eq(status_of(0), 0xff);
	close_pipe();
}
END_TEST

START_TEST(the_end_does_not_wait_for_what_was_not_submitted)
{
	submit_fails = true;
	offer(0, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	driver_kick(&driver, 0);
	virtio_blk_finish(&blk);
	ck_assert_uint_eq(status_of(0), 0xff);
}
END_TEST

/* The size */

START_TEST(it_grows_with_its_file)
{
	uint8_t generation = blk.virtio.config_generation;

	ck_assert_uint_eq(request(VIRTIO_BLK_T_IN, NR_SECTORS, DATA, 512), VIRTIO_BLK_S_IOERR);
	process_expect_log("sectors that are not there");
	ck_assert(run_once(2000)); /* the same size: nothing */
	ck_assert_uint_eq(driver.nr_config_interrupts, 0);
	ck_assert_int_eq(ftruncate(image, IMAGE_SIZE + MIB + 100), 0);
	ck_assert(run_once(2000));
	ck_assert_uint_eq(driver.nr_config_interrupts, 1);
	ck_assert_uint_ne(blk.virtio.config_generation, generation);
	ck_assert_uint_eq(config64(OFFSET(capacity)), NR_SECTORS + 2048);
	process_expect_log("has grown to 13631488 bytes");
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, NR_SECTORS, DATA, 512), VIRTIO_BLK_S_OK);
}
END_TEST

START_TEST(it_shrinks_with_its_file)
{
	ck_assert_int_eq(ftruncate(image, MIB), 0);
	ck_assert(run_once(2000));
	process_expect_log("has shrunk to 1048576 bytes");
	ck_assert_uint_eq(driver.nr_config_interrupts, 1);
	ck_assert_uint_eq(config64(OFFSET(capacity)), 2048);
	ck_assert_uint_eq(request(VIRTIO_BLK_T_OUT, 2048, DATA, 512), VIRTIO_BLK_S_IOERR);
	ck_assert_uint_eq(lseek(image, 0, SEEK_END), MIB);
	fail_lseek = EIO;
	ck_assert(run_once(2000)); /* who knows; as it was */
	fail_lseek = 0;
	ck_assert_uint_eq(config64(OFFSET(capacity)), 2048);
}
END_TEST

/* Beginning and end */

START_TEST(an_odd_size_is_told_of)
{
	make_world("/dev/shm");
	ck_assert_int_eq(ftruncate(image, 1000), 0);
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), 0);
	process_expect_log("its size is no multiple of 512 bytes");
	ck_assert_uint_eq(config64(OFFSET(capacity)), 1);
	teardown();
}
END_TEST

START_TEST(what_is_no_disk_is_refused)
{
	static const struct {
		const char *path;
		const char *why;
	} bad[] = {
		{ "/dev/shm/ballast-not-there", "No such file or directory" },
		{ "/dev/shm", "is neither a file nor a block device" },
		{ "/dev/null", "is neither a file nor a block device" },
	};

	make_world("/dev/shm");
	for (unsigned int i = 0; i < nitems(bad); i++) {
		ck_assert_int_eq(init((struct virtio_blk_options){ .path = bad[i].path }, 1),
				 -EINVAL);
		process_expect_log(bad[i].why);
	}
	fail_open = EROFS;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EINVAL);
	process_expect_log("add readonly=on");
	ck_assert_int_eq(init((struct virtio_blk_options){ .readonly = true }, 1), -EINVAL);
	process_expect_log("Read-only file system");
	fail_open = EBUSY;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EINVAL);
	process_expect_log("is it mounted on the host?");
	fail_open = ENFILE;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -ENFILE);
	process_expect_log("Too many open files in system");
	fail_open = 0;
	fail_lseek = EIO;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EINVAL);
	process_expect_log("its size: Input/output error");
	fail_lseek = 0;
	teardown();
}
END_TEST

START_TEST(a_disk_has_one_writer)
{
	struct virtio_blk other;
	struct virtio_blk_options options = { .path = path };

	ck_assert_int_eq(virtio_blk_init(&other, &driver.map, &loop, &options, 1), -EINVAL);
	process_expect_log("is in use by another guest or program");
	options.readonly = true;
	ck_assert_int_eq(virtio_blk_init(&other, &driver.map, &loop, &options, 1), -EINVAL);
	process_expect_log("is in use by another guest or program");
	virtio_blk_finish(&blk);
	ck_assert_int_eq(init(options, 1), 0);
	ck_assert_int_eq(virtio_blk_init(&other, &driver.map, &loop, &options, 1), 0);
	virtio_blk_finish(&other);
	options.readonly = false;
	ck_assert_int_eq(virtio_blk_init(&other, &driver.map, &loop, &options, 1), -EINVAL);
	process_expect_log("is in use by another guest or program");
	virtio_blk_finish(&blk);
	/* A file system that knows no locks. */
	fail_lock = ENOLCK;
	ck_assert_int_eq(init(options, 1), 0);
	fail_lock = 0;
	process_expect_log("cannot be locked: going on");
}
END_TEST

START_TEST(each_step_that_fails_leaves_nothing_behind)
{
	make_world("/dev/shm");
	unsigned int fds = process_nr_fds();
	uint64_t pages = process_nr_pages();

	fail_init = -EPERM;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EPERM);
	process_expect_log("io_uring (kernel.io_uring_disabled, or the seccomp filter");
	fail_init = -ENOMEM;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -ENOMEM);
	process_expect_log("io_uring: Cannot allocate memory");
	fail_init = -EINVAL; /* is nobody's fault out there */
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EIO);
	process_expect_log("io_uring: Invalid argument");
	fail_init = 0;
	fail_restrict = EINVAL;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -EIO);
	process_expect_log("restricting io_uring: Invalid argument");
	fail_restrict = 0;
	fail_enable = ENOMEM;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -ENOMEM);
	process_expect_log("restricting io_uring: Cannot allocate memory");
	fail_enable = 0;
	fail_register = -ENOMEM;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -ENOMEM);
	process_expect_log("eventfd: Cannot allocate memory");
	fail_register = 0;
	fail_mmap = ENOMEM;
	ck_assert_int_eq(init((struct virtio_blk_options){ 0 }, 1), -ENOMEM);
	process_expect_log("Cannot allocate memory");
	fail_mmap = 0;
	ck_assert_uint_eq(process_nr_fds(), fds);
	ck_assert_uint_eq(process_nr_pages(), pages);
	teardown();
}
END_TEST

/* Image, two kick eventfds, ring, eventfd, timer: each of them may be one too many. */
START_TEST(each_fd_that_cannot_be_had_is_told_of)
{
	struct rlimit limit;
	unsigned int n = 0;
	int next = dup(STDERR_FILENO);

	/* Those that were handed down to us would make holes. */
	ck_assert_int_ge(next, 0);
	ck_assert_int_eq(close_range((unsigned int)next, UINT_MAX, 0), 0);
	make_world("/dev/shm");
	unsigned int fds = process_nr_fds();
	next = dup(image);
	ck_assert_int_ge(next, 0);
	(void)close(next);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (;; n++) {
		limit.rlim_cur = (rlim_t)next + n;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		int r = init((struct virtio_blk_options){ 0 }, 2);
		limit.rlim_cur = (rlim_t)next + 64;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EMFILE);
		process_expect_log("Too many open files");
		ck_assert_uint_eq(process_nr_fds(), fds);
	}
	ck_assert_uint_eq(n, 6);
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const worlds[] = {
		it_is_a_disk,
		what_is_written_is_there,
		the_last_sector_can_be_had,
		descriptors_may_be_cut_anywhere,
		indirect_descriptors_and_event_indices_work,
		a_large_request_is_served_in_pieces,
		what_the_host_does_in_part_is_gone_on_with,
		all_that_a_kick_brings_is_submitted_at_once,
		what_comes_while_a_kick_is_served_needs_no_other,
		the_driver_does_not_wait_for_all_of_much,
		each_queue_gets_its_own_back,
		a_kick_that_brings_a_lot_leaves_some_for_later,
		a_driver_whose_chains_come_and_go_does_not_keep_it,
		the_serial_number_is_told,
		what_is_not_known_is_unsupported,
		a_discard_leaves_a_hole,
		zeros_may_be_a_hole_if_the_driver_says_so,
		a_host_that_cannot_zero_or_discard_does_without,
		a_discard_that_fails_is_an_error,
		the_ring_takes_nothing_but_what_a_disk_needs,
		ranges_that_cannot_be_are_refused,
		sectors_that_are_not_there_are_errors,
		an_error_says_nothing_of_bytes_that_were_not_written,
		buffers_outside_of_ram_are_errors,
		no_place_for_the_status_breaks_it,
		a_malformed_queue_breaks_it,
		a_used_ring_outside_of_ram_breaks_it,
		the_log_has_an_end,
		the_hosts_errors_are_io_errors,
		a_limit_on_file_size_is_an_io_error,
		a_file_that_ends_too_soon_is_an_io_error,
		what_is_to_be_tried_again_is,
		a_submission_that_is_refused_is_made_later,
		more_than_the_kernel_takes_are_errors,
		a_flush_syncs_the_data,
		after_a_flush_that_failed_none_succeeds,
		flushes_run_one_at_a_time_and_cover_who_waits,
		who_waits_while_a_flush_fails_fails_too,
		a_reset_waits_for_what_is_under_way,
		a_reset_with_nothing_under_way_is_through_at_once,
		a_reset_drops_who_waits,
		a_reset_does_not_wait_for_all_of_a_large_request,
		what_ends_while_it_rests_is_told_when_it_runs_again,
		what_failed_while_it_rested_has_failed,
		what_was_to_go_on_while_it_rested_goes_on,
		a_reset_forgets_what_ended_while_it_rested,
		a_driver_that_broke_the_rules_hears_no_more,
		more_requests_than_entries_break_it,
		the_end_does_not_wait_for_what_can_be_cancelled,
		the_end_does_not_wait_for_what_was_not_submitted,
		it_grows_with_its_file,
		it_shrinks_with_its_file,
		a_disk_has_one_writer,
	};
	const TTest *const bare[] = {
		what_is_in_memory_is_written_at_once,
		what_was_not_written_at_once_is_left_to_the_ring,
		what_may_be_slow_is_left_to_the_ring,
		a_block_devices_topology_is_told,
		a_topology_that_cannot_be_told_is_not,
		twenty_letters_need_no_end,
		ranges_need_their_features,
		without_flushes_each_write_is_flushed,
		a_readonly_disk_is_only_read,
		direct_takes_buffers_of_any_alignment,
		direct_cuts_no_block,
		direct_has_the_hosts_blocks,
		what_direct_needs_is_asked,
		an_odd_size_is_told_of,
		what_is_no_disk_is_refused,
		each_step_that_fails_leaves_nothing_behind,
		each_fd_that_cannot_be_had_is_told_of,
	};
	struct io_uring ring;

	int r = io_uring_queue_init(1, &ring, 0);
	if (r < 0) {
		printf("skipped: this host has no io_uring: %s\n", strerror(-r));
		return 77;
	}
	io_uring_queue_exit(&ring);
	r = run_tests("devices/virtio_blk", setup, teardown, worlds, nitems(worlds));
	return r ? r : run_tests("devices/virtio_blk", NULL, NULL, bare, nitems(bare));
}
