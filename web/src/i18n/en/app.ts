export const app = {
  'app.tagline': 'Your models, from anywhere',
  'app.newChat': 'New chat',
  'app.settings': 'Settings',
  'app.logOut': 'Log out',
} as const;
