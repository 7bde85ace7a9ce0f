/* SPDX-License-Identifier: MIT */
/*
 * test_device.h - a PCI function that does nothing but show a guest how it is reached: storage
 * behind every kind of BAR, MSI-X and INTx raised on request. Registers: contract.h. One BAR is
 * mapped into the guest; where nobody decodes it there is nothing behind its map, as with VFIO: a
 * vCPU that gets there all the same is one that KVM cannot run.
 *
 * Threads: any vCPU; the resample event on the machine's event loop. Takes lock, under
 * bus->lock where a config write or a reset is the cause, and never calls the bus with it held.
 */
#ifndef TESTS_GUEST_TEST_DEVICE_H
#define TESTS_GUEST_TEST_DEVICE_H

#include "base/event_loop.h"

#include "devices/irq.h"
#include "devices/msix.h"
#include "devices/pci.h"
#include "memory/map.h"
#include "tests/guest/contract.h"

struct test_device;

/* What a BAR's handler is given. */
struct test_bar {
	struct test_device *device;
	unsigned int index;
	uint8_t *bytes;
};

struct test_device {
	struct pci_device pci;
	struct event_loop *loop;     /* borrowed, outlives this; NULL: not initialised */
	struct memory_map *map;      /* likewise */
	struct memory_region mapped; /* host: owned; bus->lock */
	struct msix msix;
	struct irq intx;
	struct event_source resample; /* intx.resample_fd, borrowed */
	unsigned int slot;
	struct test_bar bars[PCI_NR_BARS];
	pthread_mutex_t lock;
	bool intx_asserted; /* lock, as all below */
	uint32_t resamples;
	uint32_t resets;
	uint32_t last_bar, last_offset, last_size;
	uint64_t last_value;
	uint32_t nr_writes;
	uint8_t registers[TEST_BAR_REGISTERS_SIZE];
	uint8_t io[TEST_BAR_IO_SIZE];
	uint8_t wide[TEST_BAR_WIDE_SIZE];
	uint8_t other[TEST_BAR_OTHER_SIZE];
	uint8_t trapped[TEST_BAR_MAPPED_SIZE];
};

/* Puts the device on the bus. -errno of what failed; then nothing is left behind. */
must_check int test_device_init(struct test_device *device, struct pci_bus *bus,
				struct memory_map *map, struct wires *wires,
				struct event_loop *loop, unsigned int slot);
/* vCPUs parked. Accepts a zeroed object. */
void test_device_finish(struct test_device *device);

#endif /* TESTS_GUEST_TEST_DEVICE_H */
