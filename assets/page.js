// What the page does without the server: light and dark, and keys for the blind vote.
window.ft = Object.assign(window.ft ?? {}, {
  theme(dark) {
    document.body.classList.toggle('dark', dark);
    window.ft.kept.set('theme', dark ? 'dark' : 'light');
  },
  readyToVote(blind) {
    // A key is a vote only while no field takes it.
    if (blind) document.activeElement?.blur();
  },
});

document.addEventListener('click', (event) => {
  if (event.target.closest('[data-theme-toggle]')) {
    window.ft.theme(!document.body.classList.contains('dark'));
  }
});

// Blind vote: 1 to 6 for a pane, 0 for no difference.
document.addEventListener('keydown', (event) => {
  const typing = event.target.closest('input, textarea, select, [contenteditable]');
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !/^[0-6]$/.test(event.key)) return;
  const button = document.getElementById(`pg-vote-${event.key}`);
  if (button?.offsetParent) button.click();
});

// What gradio's components lack for those who do not see the page, or use it without a mouse.
new MutationObserver(() => {
  // A dropdown's list closes as its field loses the focus, so the Tab key must not stop at it. The
  // arrow keys move in it while the field keeps the focus.
  for (const list of document.querySelectorAll('ul[role=listbox]:not([tabindex])')) {
    list.tabIndex = -1;
  }
  // The place of a figure that is not there yet has a name, but is nothing that can have one.
  for (const place of document.querySelectorAll('.empty[aria-label]:not([role])')) {
    place.setAttribute('role', 'img');
  }
}).observe(document, { childList: true, subtree: true });

// A dropdown takes Tab for a letter: its list opened again behind the focus, over what has it now.
window.addEventListener(
  'keydown',
  (event) => {
    if (event.key === 'Tab' && event.target.matches('.wrap-inner input')) event.stopPropagation();
  },
  true,
);
