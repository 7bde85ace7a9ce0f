/* SPDX-License-Identifier: MIT */
/*
 * virtio.h - what every virtio device is, whatever it does: feature negotiation, status,
 * queues, config space, reset. Virtual I/O Device 1.2, chapters 2 and 3. Modern only
 * (VIRTIO_F_VERSION_1 is offered always, and a driver that does not take it is refused). So are
 * VIRTIO_F_INDIRECT_DESC and VIRTIO_F_EVENT_IDX, which are the rings' affair.
 *
 * Concepts
 *  - device: a struct with this embedded, and a table of ops. The ops run under virtio->lock,
 *    so that a device model needs none of its own.
 *  - transport: virtio_pci. It turns the driver's register accesses into the calls below, and
 *    is asked, through `transport`, to interrupt the guest.
 *  - kick: each queue has an eventfd that the driver's notification signals, past user space
 *    where it can; the event loop then calls the device's `kick`.
 *  - broken: a driver that does what it must not gets VIRTIO_CONFIG_S_NEEDS_RESET, and no
 *    queue is served until it has reset the device.
 *
 * Threads: register accesses from any vCPU, kicks on the event loop. All take virtio->lock;
 * it comes after pci_bus.lock and before msix.lock and whatever memory/ takes.
 */
#ifndef DEVICES_VIRTIO_H
#define DEVICES_VIRTIO_H

#include <pthread.h>

#include <linux/virtio_config.h>

#include "base/event_loop.h"
#include "base/log.h"

#include "devices/virtq.h"

struct virtio;

#define VIRTIO_MAX_QUEUES 33u /* a network card's: two a vCPU, and one for control */
#define VIRTIO_MAX_CONFIG 64u /* bytes: a disk's is the largest */
#define VIRTIO_NO_VECTOR 0xffffu
#define VIRTIO_FEATURE(bit) (1ull << (bit))

/* All under virtio->lock. */
struct virtio_ops {
	/* Queue `index` was kicked (or may have been: look). Pops, works, pushes, notifies. */
	void (*kick)(struct virtio *virtio, unsigned int index);
	/*
	 * The driver has set DRIVER_OK: features are settled (virtio->driver_features) and queues
	 * may be used; or they may again. NULL: nothing to do.
	 */
	void (*start)(struct virtio *virtio);
	/*
	 * It rests: DRIVER_OK was taken back without a reset, by the driver, or with the right to
	 * reach memory. Whoever else works on the queues stops before this returns. NULL: nobody
	 * does. If `start` comes next, and no `reset`, all goes on where it was.
	 */
	void (*stop)(struct virtio *virtio);
	/* What virtio_queue_eventfd() says may be another one now. NULL: nobody has asked. */
	void (*rewired)(struct virtio *virtio);
	/*
	 * The driver, or the guest's reset: back to the beginning. Queues are off already. False: it
	 * takes more time, and virtio_reset_done() comes later, on the event loop.
	 */
	bool (*reset)(struct virtio *virtio);
	/*
	 * Device config space. `fill` gives all config_size bytes of it, little-endian; NULL: there
	 * is none. `write`: `size` is 1, 2 or 4 bytes, offset + size <= config_size; NULL: it is
	 * read-only.
	 */
	void (*config_fill)(struct virtio *virtio, void *space);
	void (*config_write)(struct virtio *virtio, unsigned int offset, unsigned int size,
			     uint32_t value);
};

/* Interrupts, as the transport raises them. Under virtio->lock. */
struct virtio_transport_ops {
	void (*queue_interrupt)(struct virtio *virtio, unsigned int index);
	void (*config_interrupt)(struct virtio *virtio);
	/* As virtio_queue_eventfd(). NULL: there are none. */
	int (*queue_eventfd)(struct virtio *virtio, unsigned int index);
};

struct virtio_queue {
	struct virtq ring;
	uint16_t vector;            /* MSI-X vector, or VIRTIO_NO_VECTOR */
	struct event_source kicked; /* fd owned: the driver's notifications */
	struct virtio *virtio;      /* whose queue this is */
};

struct virtio {
	const struct virtio_ops *ops;
	const char *name;                             /* borrowed; for logs */
	const struct virtio_transport_ops *transport; /* NULL: interrupts go nowhere */
	void *transport_opaque;                       /* the transport's own */
	struct event_loop *loop;                      /* borrowed, outlives this; NULL: none */
	struct memory_map *map;                       /* borrowed, outlives this */
	uint16_t device_id;                           /* 1.2, chapter 5: 5 is the balloon */
	unsigned int config_size;                     /* bytes */
	pthread_mutex_t lock;
	uint64_t features;         /* offered; fixed after virtio_init() */
	uint64_t driver_features;  /* lock; accepted so far, final once FEATURES_OK is set */
	uint8_t status;            /* lock */
	bool resetting;            /* lock; until the device says that it is through */
	bool may_dma;              /* lock; the bus lets it reach memory */
	uint8_t config_generation; /* lock */
	uint16_t config_vector;    /* lock */
	/*
	 * Borrowed; -1: none. An eventfd that is signalled when a reset that took more time is
	 * through; whoever made the device sets it, before there is a driver.
	 */
	int reset_fd;
	unsigned int nr_queues;
	struct virtio_queue queues[VIRTIO_MAX_QUEUES]; /* lock */
	struct log_budget budget;
};

/* What a device is made with. */
struct virtio_config {
	const struct virtio_ops *ops;
	const char *name; /* borrowed */
	uint16_t device_id;
	uint64_t features; /* VERSION_1, INDIRECT_DESC and EVENT_IDX are added */
	unsigned int config_size;
	unsigned int nr_queues;
	uint16_t queue_sizes
		[VIRTIO_MAX_QUEUES]; /* entries; powers of two up to VIRTQ_MAX_SIZE */
};

/*
 * Makes the kick eventfds and puts them on the loop (NULL: on none; tests kick by hand).
 * -EMFILE, -ENFILE, -ENOMEM, -ENOSPC: not logged. On failure nothing is left behind.
 */
must_check int virtio_init(struct virtio *virtio, struct memory_map *map,
			   struct event_loop *loop, const struct virtio_config *config);
/* On the loop's thread, or while it does not run; vCPUs parked. Accepts a zeroed object. */
void virtio_finish(struct virtio *virtio);

/*
 * For transports. Values are the driver's and may be anything. The first four are called under the
 * lock, which the others take.
 */

/*
 * Device status written (1.2, 2.1): 0 resets; FEATURES_OK sticks only if the driver accepted
 * VIRTIO_F_VERSION_1 and nothing that was not offered; a bit once set stays until the reset,
 * but for DRIVER_OK: a driver that takes it back, which it must not, has its queues left alone.
 * Writing DRIVER_OK starts the device and serves what the queues hold already.
 * Until a reset is through the status reads as it was before, which a driver has to wait for
 * (4.1.4.3.2), and what is written is ignored.
 */
void virtio_set_status(struct virtio *virtio, uint8_t status);
/* Half 0: bits 0 to 31; half 1: bits 32 to 63; others read as 0 and swallow writes. */
uint32_t virtio_get_features(const struct virtio *virtio, uint32_t half);
uint32_t virtio_get_driver_features(const struct virtio *virtio, uint32_t half);
/* Ignored once FEATURES_OK is set. */
void virtio_set_driver_features(struct virtio *virtio, uint32_t half, uint32_t value);
/* Accesses beyond config_size read as zeros and write nothing. size: 1, 2, 4 or 8. */
uint64_t virtio_config_read(struct virtio *virtio, uint64_t offset, unsigned int size);
void virtio_config_write(struct virtio *virtio, uint64_t offset, unsigned int size,
			 uint64_t value);
/* The guest's reset: as if the driver had written status 0. */
void virtio_reset(struct virtio *virtio);
/*
 * Whether it may reach the guest's memory: PCI's Bus Master Enable. At first it may. With the right it
 * loses DRIVER_OK: Linux relies on that when it starts another kernel by kexec, which gives the
 * right back before it resets the device. What the host's kernel has been asked to read or write by
 * then still is. A driver that sets DRIVER_OK first has it start with the right.
 */
void virtio_set_dma(struct virtio *virtio, bool may);
/* A reset has begun and is not through. */
bool virtio_is_resetting(struct virtio *virtio);
/* What the event loop does when a queue's eventfd was signalled. */
void virtio_kick(struct virtio *virtio, unsigned int index);

/*
 * For devices, under the lock (ops run under it).
 */

bool virtio_has_feature(const struct virtio *virtio, unsigned int bit);
/* Interrupts the driver for a queue, if it wants that. */
void virtio_notify(struct virtio *virtio, unsigned int index);
/* The same for a queue that somebody else works on, and has found that the driver wants it. */
void virtio_interrupt(struct virtio *virtio, unsigned int index);
/*
 * The eventfd that interrupts the driver for a queue without passing through here, for the
 * kernel to signal: good until ops->rewired. -1: there is none, virtio_interrupt() does it.
 */
int virtio_queue_eventfd(struct virtio *virtio, unsigned int index);
/*
 * Kicks of a queue are somebody else's, who waits for queues[index].kicked.fd himself; and are
 * the event loop's again. A reset does not change that.
 */
void virtio_yield_kicks(struct virtio *virtio, unsigned int index);
void virtio_claim_kicks(struct virtio *virtio, unsigned int index);
/* Config space has changed: a new generation, and the interrupt once DRIVER_OK is set. */
void virtio_config_changed(struct virtio *virtio);
/* The driver broke the rules: NEEDS_RESET, and queues stand still until it resets. */
void virtio_break(struct virtio *virtio, const char *why);
/* DRIVER_OK, with access to memory, neither broken nor in a reset. */
bool virtio_running(const struct virtio *virtio);
/* Not running, but it may yet go on with what it has: neither broken nor in a reset. */
bool virtio_resting(const struct virtio *virtio);
/* The reset that took more time is through. Not called for one that `reset` said was. */
void virtio_reset_done(struct virtio *virtio);

#endif /* DEVICES_VIRTIO_H */
