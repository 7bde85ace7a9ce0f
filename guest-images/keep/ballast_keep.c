// SPDX-License-Identifier: GPL-2.0
/*
 * ballast_keep.c - runs in the guest: as long as it is loaded, virtio devices are left at work when the kernel goes on to
 * another one by kexec.
 *
 * So it was with all of Linux before 6.15, and its stable branches of 2025: the devices are reset when the new kernel finds
 * them. Since then virtio_dev_shutdown() resets them; here it does nothing.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static noinline void do_nothing(void)
{
}

static int skip_function(struct kprobe *probe, struct pt_regs *regs)
{
	instruction_pointer_set(regs, (unsigned long)do_nothing);
	return 1;
}

/* A probe that has one may change where it goes on. */
static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = {
	.symbol_name = "virtio_dev_shutdown",
	.pre_handler = skip_function,
	.post_handler = after,
};

/* A kernel that has no such function has nothing to be kept from. */
static int __init keep_init(void)
{
	int r = register_kprobe(&probe);

	return r == -ENOENT ? 0 : r;
}

module_init(keep_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Leaves virtio devices at work over a kexec");
