//! VLANs for a kernel that has none: `tag` and `untag` at the ends of a link are a switch's port that carries one VLAN;
//! at two interfaces of one host, joined by redirection, they are the VLAN's device and the one below it.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT},
    helpers::generated::{bpf_redirect, bpf_skb_vlan_pop, bpf_skb_vlan_push},
    macros::classifier,
    programs::TcContext,
};

/// How many tags frames have: one, or two.
#[unsafe(no_mangle)]
static TAG_COUNT: Global<u32> = Global::new(1);
/// Tag control information that `tag` writes, and whose identifiers `untag` asks for, outermost first.
#[unsafe(no_mangle)]
static TAGS: [Global<u32>; 2] = [const { Global::new(0) }; 2];
/// Index of the interface that frames continue at: `tag` sends them out of it, `untag` lets them arrive there. 0: where
/// they are.
#[unsafe(no_mangle)]
static TAG_DEVICE: Global<u32> = Global::new(0);

/// IEEE 802.1Q and 802.1ad.
const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;
const IDENTIFIER: u32 = 0xfff;

/// Gives a frame that leaves its tags.
#[classifier]
fn tag(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let [outer, inner] = [TAGS[0].load() as u16, TAGS[1].load() as u16];
    let twice = TAG_COUNT.load() > 1;
    // SAFETY: the helpers take the program's own context; nothing holds a pointer into the frame.
    unsafe {
        if twice && bpf_skb_vlan_push(skb, CUSTOMER.to_be(), inner) != 0 {
            return TC_ACT_SHOT;
        }
        if bpf_skb_vlan_push(skb, if twice { SERVICE } else { CUSTOMER }.to_be(), outer) != 0 {
            return TC_ACT_SHOT;
        }
    }
    continue_at(0)
}

/// Takes the tags from a frame that arrives. One with others goes on as it is where there is another interface for
/// those with the right ones, and ends here where not: a switch drops it.
#[classifier]
fn untag(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let refused = if TAG_DEVICE.load() == 0 { TC_ACT_SHOT } else { TC_ACT_OK };
    for depth in 0..2 {
        if depth >= TAG_COUNT.load() {
            break;
        }
        let wanted = TAGS[depth as usize].load() & IDENTIFIER;
        // SAFETY: the kernel gives the program its context, whose fields may be read; the helper takes the same.
        unsafe {
            if (*skb).vlan_present == 0 || (*skb).vlan_tci & IDENTIFIER != wanted {
                return refused;
            }
            if bpf_skb_vlan_pop(skb) != 0 {
                return TC_ACT_SHOT;
            }
        }
    }
    continue_at(BPF_F_INGRESS.into())
}

#[inline(always)]
fn continue_at(flags: u64) -> i32 {
    match TAG_DEVICE.load() {
        0 => TC_ACT_OK,
        // SAFETY: the helper takes two numbers.
        device => unsafe { bpf_redirect(device, flags) as i32 },
    }
}
