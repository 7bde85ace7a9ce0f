/* SPDX-License-Identifier: MIT */
/*
 * kvm_wires.h - devices/wires filled by KVM: GSI routes, irqfds, the VFIO device.
 *
 * GSIs 0 to 23 are the IOAPIC's pins, one to one (nothing is routed to the 8259s: the tables
 * tell the guest that there are none). From 24 on they are MSI routes.
 *
 * Threads: any. Takes kvm_wires->lock.
 */
#ifndef VMM_KVM_WIRES_H
#define VMM_KVM_WIRES_H

#include <pthread.h>

#include <linux/kvm.h>

#include "devices/wires.h"

#define KVM_WIRES_PINS 24u

struct kvm_wires {
	struct wires wires;
	pthread_mutex_t lock;
	int vm_fd;        /* borrowed */
	int vfio_fd;      /* owned KVM_DEV_TYPE_VFIO, made for the first group; -1; lock */
	uint32_t nr_gsis; /* pins and routes together; 0: not initialised */
	bool *used;       /* owned, by gsi; lock */
	struct msi_message *messages;    /* owned, by gsi; lock */
	struct kvm_irq_routing *routing; /* owned, what KVM is handed; lock */
};

/* -ENOMEM, or the errno of KVM_SET_GSI_ROUTING. On failure nothing is left behind. */
int kvm_wires_init(struct kvm_wires *wires, int vm_fd);
/* Accepts a zeroed object. */
void kvm_wires_finish(struct kvm_wires *wires);

#endif /* VMM_KVM_WIRES_H */
