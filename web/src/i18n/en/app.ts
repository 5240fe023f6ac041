export const app = {
  'app.tagline': 'Your models, from anywhere',
  'app.newChat': 'New chat',
  'app.settings': 'Settings',
  'app.logOut': 'Log out',
  'app.navigation': 'Conversations and settings',
  'app.menu': 'Menu',
  'app.models': 'Models',
  'app.close': 'Close',
  'app.cancel': 'Cancel',
  'app.copy': 'Copy',
  'app.copied': 'Copied',
  'app.copyFailed': 'Not copied',
} as const;
